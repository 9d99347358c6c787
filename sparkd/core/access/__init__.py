# SPDX-License-Identifier: Apache-2.0
"""API keys, authentication, quotas, visibility of names, and browser origins."""
