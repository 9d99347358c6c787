# SPDX-License-Identifier: Apache-2.0
"""`/proc` and the control groups: processes, resource usage, memory, listeners."""
