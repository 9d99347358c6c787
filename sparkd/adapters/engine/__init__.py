# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model server: the transport, and the client on top of it."""
