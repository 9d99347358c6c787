# SPDX-License-Identifier: Apache-2.0
"""HTTP without I/O: requests, responses, forms, event streams, paths, and routes."""
