# SPDX-License-Identifier: Apache-2.0
"""Events, traffic counters, the table of metrics, and sessions."""
