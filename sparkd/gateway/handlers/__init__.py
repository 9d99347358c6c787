# SPDX-License-Identifier: Apache-2.0
"""HTTP handlers, one group of endpoints per module."""
