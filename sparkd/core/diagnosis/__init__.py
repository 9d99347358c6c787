# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of a host: facts in, findings out."""
