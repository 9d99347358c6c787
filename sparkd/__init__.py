# SPDX-License-Identifier: Apache-2.0
"""sparkd: a systemd-native home inference server; docs/architecture.md shows its layers."""

from sparkd._version import __version__

__all__ = ["__version__"]
