# SPDX-License-Identifier: Apache-2.0
"""Facts and actions on an open connection that asyncio has no call for."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios


def untaken_bytes(link: asyncio.Transport) -> int:
    """How much the other side has not acknowledged of what was written."""
    end: socket.socket = link.get_extra_info("socket")
    queued: int = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return queued + link.get_write_buffer_size()


def break_off(link: asyncio.Transport) -> None:
    """Close a connection so that the other side sees it broken, not ended in order."""
    end: socket.socket = link.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.abort()
