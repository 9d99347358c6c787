# SPDX-License-Identifier: Apache-2.0
"""The scheduling policy in virtual time: `python -m tests.simulation` prints a report."""
