# SPDX-License-Identifier: Apache-2.0
"""Foreign clients: their configuration files and their programs."""
