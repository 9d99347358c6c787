# SPDX-License-Identifier: Apache-2.0
"""The version of sparkd; packaging/debian/changelog must name the same one."""

__version__ = "0.1.0"
