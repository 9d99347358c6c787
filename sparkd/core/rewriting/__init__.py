# SPDX-License-Identifier: Apache-2.0
"""Rewriting of requests, one idea per module; `rules` has the order of the rules."""
