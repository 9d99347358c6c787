# SPDX-License-Identifier: Apache-2.0
"""Responses of an engine that is broken or means harm, one function for each kind.

Owns only what is put on the connection, or done to the host, in place of a proper response. When
and on which path that happens is decided by its caller.
"""

import asyncio
import fcntl
import os
import random
import sys
from collections.abc import Awaitable, Callable

from http1 import Connection

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}]}'
PIECE = b"10000\r\n" + b"x" * 65536 + b"\r\n"
TRICKLE_S = 0.05
FLOOD_LINES = 60_000
METRICS = (
    b"vllm:num_requests_running 1e5e5\nvllm:iteration_tokens_total_count NaN\n"
    b'vllm:num_requests_running{model="other",model="other"} -1\n'
    b"vllm:iteration_tokens_total_count " + b"9" * 1000 + b"\n# TYPE vllm:x odd\nvllm:x \xff\x00\n"
)
USAGE = (
    b'{"object":"chat.completion","choices":[{"message":{"content":"x"}}],"usage":'
    b'{"prompt_tokens":999999999999,"completion_tokens":-5,"total_tokens":1e400,'
    b'"completion_tokens_details":{"a":{"b":{}}},"prompt_tokens":"7","output_tokens":'
    + b"9" * 3000
    + b"}}"
)


async def forever(reply: Connection, piece: bytes, pause_s: float = 0.0) -> None:
    while True:
        reply.raw(piece)
        await reply.drained()
        await asyncio.sleep(pause_s)


async def said(reply: Connection, *, status: str = "200 OK", head: bytes = b"") -> None:
    line = f"HTTP/1.1 {status}\r\n".encode()
    reply.raw(line + head + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))


def whole(body: bytes) -> bytes:
    return OK + b"content-length: %d\r\n\r\n%b" % (len(body), body)


async def redirect(reply: Connection) -> None:
    await said(reply, status="307 X", head=b"location: /models/fake-b/unload\r\n")


async def redirect_away(reply: Connection) -> None:
    await said(reply, status="308 X", head=b"location: http://127.0.0.1:1/v1/x\r\n")


async def challenge(reply: Connection) -> None:
    await said(reply, status="401 X", head=b'www-authenticate: Basic realm="x"\r\n')


async def for_browsers(reply: Connection) -> None:
    head = (
        b'content-type: text/html\r\nset-cookie: a=b\r\nalt-svc: h3=":1"\r\n'
        b"access-control-allow-origin: *\r\nlocation: /x\r\nrefresh: 0; url=/x\r\n"
        b"link: </x>; rel=preload\r\nx-sparkd-model: other\r\nretry-after: 99999999\r\n"
        b'x-should-retry: true\r\nx-request-id: mine\r\nclear-site-data: "*"\r\n'
    )
    await said(reply, head=head)


async def informed(reply: Connection) -> None:
    await forever(reply, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")


async def switching(reply: Connection) -> None:
    reply.raw(b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello")


async def odd_status(reply: Connection) -> None:
    await said(reply, status="999 X")


async def endless_head(reply: Connection) -> None:
    reply.raw(OK)
    await forever(reply, b"x-more: " + b"y" * 4000 + b"\r\n")


async def endless_body(reply: Connection) -> None:
    reply.raw(CHUNKED)
    await forever(reply, PIECE)


async def trickle(reply: Connection) -> None:
    reply.raw(CHUNKED)
    await forever(reply, b"1\r\nx\r\n", TRICKLE_S)


async def trickling_head(reply: Connection) -> None:
    reply.raw(OK + b"x-slow: ")
    await forever(reply, b"y", TRICKLE_S)


async def stalled(_: Connection) -> None:
    await asyncio.Event().wait()


async def garbage(reply: Connection) -> None:
    await forever(reply, bytes(range(256)) * 64)


async def short(reply: Connection) -> None:
    reply.raw(OK + b"content-length: 5000\r\n\r\n" + BODY)
    reply.hang_up()


async def long(reply: Connection) -> None:
    reply.raw(OK + b"content-length: 5\r\n\r\n" + BODY * 100)


async def two_lengths(reply: Connection) -> None:
    reply.raw(OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!")


async def twice(reply: Connection) -> None:
    reply.raw(whole(BODY) + whole(b'{"object":"another"}'))


async def early(reply: Connection) -> None:
    reply.hang_up()


async def leaves(reply: Connection) -> None:
    reply.raw(CHUNKED + b"5\r\nhello\r\n")
    await asyncio.sleep(0.1)
    os._exit(0)


async def usage(reply: Connection) -> None:
    reply.raw(whole(USAGE))


async def metrics(reply: Connection) -> None:
    reply.raw(whole(METRICS))


async def lines(reply: Connection) -> None:
    reply.raw(whole(b"vllm:num_requests_running 1\n" * 70_000))


async def deep(reply: Connection) -> None:
    reply.raw(whole(b"[" * (1 << 20)))


async def log_flood(reply: Connection) -> None:
    for number in range(FLOOD_LINES):
        print(f"Loading {number} " * 4, file=sys.stderr)
    await said(reply)


async def lock_thief(reply: Connection) -> None:
    """Turns its own shared hold on the GPU's lock into an exclusive one."""
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
            if path.endswith((".lock",)):
                fcntl.flock(int(name), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
    await said(reply)


async def any_of_them(reply: Connection) -> None:
    """Another attack each time, of those that other models need not notice."""
    await random.choice(_HARMLESS)(reply)


KINDS: dict[str, Callable[[Connection], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (
        any_of_them,
        *(redirect, redirect_away, challenge, for_browsers, informed, switching, odd_status),
        *(endless_head, endless_body, trickle, trickling_head, stalled, garbage, short, long),
        *(two_lengths, twice, early, leaves, usage, metrics, lines, deep, log_flood, lock_thief),
    )
}
_HARMLESS = [kind for kind in KINDS.values() if kind not in (any_of_them, lock_thief, log_flood)]
