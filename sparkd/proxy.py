# SPDX-License-Identifier: Apache-2.0
"""One request to one model: ensure it, send the request, lend the answer while it streams.

The use lease lives exactly as long as the answer. A server that could not be reached saw nothing
of the request, so the model is ensured once more and the request is sent again; one that broke off
may have acted, so that is the client's to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparkd.adapters.upstream import Answer, ConnectFailed, Upstream
from sparkd.core.httprequest import connection_options
from sparkd.core.keepalive import HEADER as KEEP_ALIVE
from sparkd.core.model import Config, Endpoint, ModelSpec
from sparkd.ensure import Ensurer
from sparkd.leases import UseLease
from sparkd.queue import Grant, OnWait

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    }
)
_OURS = frozenset(
    {
        *("authorization", "x-api-key", "cookie", "host", "content-length", "expect"),
        # The engine has rules of its own for browsers, and would answer by them.
        "origin",
        KEEP_ALIVE,
    }
)
"""What is between the client and the gateway only."""
_STOPPED = _HOP_BY_HOP | _OURS
_FOR_BROWSERS = frozenset(
    {
        *("set-cookie", "clear-site-data", "refresh", "strict-transport-security"),
        *("access-control-allow-origin", "access-control-allow-credentials"),
        *("access-control-allow-headers", "access-control-expose-headers"),
    }
)
"""What would have a browser do or allow something in the name of the gateway, at every port of its
host: not for an engine to say."""
_NOT_RETURNED = _HOP_BY_HOP | _FOR_BROWSERS | {"date", "server", "x-request-id"}
_RAW = "surrogateescape"
"""Bytes of a header that are not UTF-8 go on as they came."""


OnGrant = Callable[[Grant], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request as the model's server is to see it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Lent:
    """An answer and the lease of its model; leaving the block cancels what is unread of it."""

    __slots__ = ("_answer", "_lease")

    def __init__(self, answer: Answer, lease: UseLease) -> None:
        self._answer = answer
        self._lease = lease

    async def __aenter__(self) -> Answer:
        return self._answer

    async def __aexit__(self, *_: object) -> None:
        with self._lease:
            await self._answer.close()


class Proxy:
    def __init__(self, ensurer: Ensurer) -> None:
        self._ensurer = ensurer
        self._upstreams: dict[Endpoint, Upstream] = {}

    async def answer(
        self,
        config: Config,
        spec: ModelSpec,
        outgoing: Outgoing,
        on_grant: OnGrant,
        on_wait: OnWait | None = None,
    ) -> Lent:
        """The model's answer, its head arrived; enter what is returned, at once.

        `on_grant` is told when the model is there, `on_wait` why it takes long. Raises what
        `Ensurer.grant` raises, and UpstreamLost.
        """
        grant = await self._ensurer.grant(config, spec, on_wait)
        on_grant(grant)
        try:
            answer = await self._send(grant, outgoing)
        except ConnectFailed:
            self._ensurer.forget(spec.model_id)
            grant = await self._ensurer.grant(config, spec, on_wait)
            on_grant(grant)
            answer = await self._send(grant, outgoing)
        return Lent(answer, grant.lease)

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    async def _send(self, grant: Grant, outgoing: Outgoing) -> Answer:
        """The answer, its head arrived; without one, the lease of the grant is closed."""
        try:
            return await self._upstream(grant.endpoint).send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body
            )
        except BaseException:
            grant.lease.close()
            raise

    def _upstream(self, endpoint: Endpoint) -> Upstream:
        upstream = self._upstreams.get(endpoint)
        if upstream is None:
            upstream = self._upstreams[endpoint] = Upstream(endpoint)
        return upstream


def request_headers(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    """The client's headers, names in lower case, as the model's server gets them."""
    passed: dict[str, str] = {}
    options: list[str] = []
    for name, value in headers.items():
        if name not in _STOPPED:
            passed[name] = f"{passed[name]}, {value}" if name in passed else value
        elif name == "connection":
            options.append(value)
    for name in connection_options(options):
        passed.pop(name, None)
    passed.setdefault("accept-encoding", "identity")
    passed["x-request-id"] = request_id
    return passed


def response_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The model's headers, names in lower case, as the client gets them.

    `date` and `server` are the gateway's.
    """
    decoded = [(n.decode("ascii"), v.decode("utf-8", _RAW)) for n, v in headers]
    named = connection_options([v for n, v in decoded if n == "connection"])
    return [(n, v) for n, v in decoded if n not in _NOT_RETURNED and n not in named]
