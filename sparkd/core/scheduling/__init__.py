# SPDX-License-Identifier: Apache-2.0
"""Scheduling decisions: the policy, memory admission, busy answers, and back-off."""
