# SPDX-License-Identifier: Apache-2.0
"""The systemd journal: writing events and reading entries."""
