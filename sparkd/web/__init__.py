# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of sparkd: the only place besides the daemon that knows Sanic."""
