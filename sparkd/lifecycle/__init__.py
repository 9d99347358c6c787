# SPDX-License-Identifier: Apache-2.0
"""The life of one model: locks, observed state, sessions, start, sleep, and end."""
