# SPDX-License-Identifier: Apache-2.0
"""Short processes of timers: the idle check of one model, and the restore pass."""
