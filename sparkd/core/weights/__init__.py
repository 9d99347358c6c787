# SPDX-License-Identifier: Apache-2.0
"""Model weights: the listings of hubs, and the choice of files."""
