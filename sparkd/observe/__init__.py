# SPDX-License-Identifier: Apache-2.0
"""Readings for people and monitoring: status, metrics, events, host survey. No changes."""
