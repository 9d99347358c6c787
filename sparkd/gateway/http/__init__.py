# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: Sanic's connections and protocol, with own reading and framing."""
