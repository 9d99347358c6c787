# SPDX-License-Identifier: Apache-2.0
"""One request to one model: ensure it, send the request, lend the answer while it streams.

The use lease lives exactly as long as the answer. A server that could not be reached saw nothing
of the request, so the model is ensured once more and the request is sent again; one that broke off
may have acted, so that is the client's to repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from sparkd.adapters.upstream import Answer, ConnectFailed, Upstream
from sparkd.core.httprequest import connection_options
from sparkd.core.model import Config, Endpoint, ModelSpec
from sparkd.ensure import Ensurer
from sparkd.scheduler import Grant, OnWait

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
    }
)
"""What is between the client and the gateway only."""
_STOPPED = _HOP_BY_HOP | _OURS
_NOT_RETURNED = _HOP_BY_HOP | {"date", "server", "x-request-id"}
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


class Proxy:
    def __init__(self, ensurer: Ensurer) -> None:
        self._ensurer = ensurer
        self._upstreams: dict[Endpoint, Upstream] = {}

    @contextlib.asynccontextmanager
    async def answer(
        self,
        config: Config,
        spec: ModelSpec,
        outgoing: Outgoing,
        on_grant: OnGrant,
        on_wait: OnWait | None = None,
    ) -> AsyncIterator[Answer]:
        """The model's answer, its head arrived; leaving the block cancels what is unread.

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
        with grant.lease:
            try:
                yield answer
            finally:
                await answer.close()

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
    named = connection_options(v for n, v in headers.items() if n == "connection")
    for name, value in headers.items():
        if name not in _STOPPED and name not in named:
            passed[name] = f"{passed[name]}, {value}" if name in passed else value
    passed.setdefault("accept-encoding", "identity")
    passed["x-request-id"] = request_id
    return passed


def response_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The model's headers as the client gets them; `date` and `server` are the gateway's."""
    decoded = [(n.decode("ascii").lower(), v.decode("utf-8", _RAW)) for n, v in headers]
    named = connection_options(v for n, v in decoded if n == "connection")
    return [(n, v) for n, v in decoded if n not in _NOT_RETURNED and n not in named]
