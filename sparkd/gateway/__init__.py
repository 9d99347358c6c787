# SPDX-License-Identifier: Apache-2.0
"""The gateway process, `sparkd.service`: entry point, admission, housekeeping, HTTP."""
