# SPDX-License-Identifier: Apache-2.0
"""The rules of request rewriting, one idea a module; `core.rewrite` says which apply and when."""
