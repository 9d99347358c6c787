# SPDX-License-Identifier: Apache-2.0
"""Texts of a model server, read without trust: responses, errors, metrics, logs."""
