# SPDX-License-Identifier: Apache-2.0
"""Downloads of weights: staging, verification, and one atomic rename into place."""
