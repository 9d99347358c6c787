# SPDX-License-Identifier: Apache-2.0
"""Boots whole Debian systems under systemd-nspawn for the system tests.

Imports nothing of sparkd, so that a broken sparkd cannot keep a host from coming up.
"""
