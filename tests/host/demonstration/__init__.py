# SPDX-License-Identifier: Apache-2.0
"""Shows sparkd at work on a test host. Needs nothing but Python; imports nothing of sparkd."""
