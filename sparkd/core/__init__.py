# SPDX-License-Identifier: Apache-2.0
"""Pure decisions and data: no I/O, no asyncio, no clock; time comes as an argument."""
