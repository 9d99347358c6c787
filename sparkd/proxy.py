# SPDX-License-Identifier: Apache-2.0
"""One request to one model: ensure it, send the request, lend the answer while it streams.

The use lease lives exactly as long as the answer. A server that could not be reached saw nothing
of the request, so the model is ensured once more and the request is sent again; one that broke off
may have acted, so that is the client's to repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from sparkd.adapters.upstream import Answer, ConnectFailed, Upstream
from sparkd.core.model import Config, Endpoint, ModelSpec
from sparkd.ensure import Ensurer
from sparkd.scheduler import OnWait

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)
_OURS = frozenset({"authorization", "x-api-key", "cookie", "host", "content-length", "expect"})
"""What is between the client and the gateway only."""


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
        self, config: Config, spec: ModelSpec, outgoing: Outgoing, on_wait: OnWait | None = None
    ) -> AsyncIterator[Answer]:
        """The model's answer, its head arrived; leaving the block cancels what is unread.

        `on_wait` is told why it takes long. Raises what `Ensurer.grant` raises, and UpstreamLost.
        """
        async with contextlib.AsyncExitStack() as held:
            try:
                answer = await self._send(config, spec, outgoing, held, on_wait)
            except ConnectFailed:
                self._ensurer.forget(spec.model_id)
                answer = await self._send(config, spec, outgoing, held, on_wait)
            yield answer

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    async def _send(
        self,
        config: Config,
        spec: ModelSpec,
        outgoing: Outgoing,
        held: contextlib.AsyncExitStack,
        on_wait: OnWait | None,
    ) -> Answer:
        grant = await self._ensurer.grant(config, spec, on_wait)
        try:
            answer = await self._upstream(grant.endpoint).send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body
            )
        except BaseException:
            grant.lease.close()
            raise
        held.enter_context(grant.lease)
        held.push_async_callback(answer.close)
        return answer

    def _upstream(self, endpoint: Endpoint) -> Upstream:
        upstream = self._upstreams.get(endpoint)
        if upstream is None:
            upstream = self._upstreams[endpoint] = Upstream(endpoint)
        return upstream


def request_headers(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    """The client's headers as the model's server gets them."""
    passed = {
        name: value
        for name, value in ((name.lower(), value) for name, value in headers.items())
        if name not in _HOP_BY_HOP and name not in _OURS
    }
    passed.setdefault("accept-encoding", "identity")
    passed["x-request-id"] = request_id
    return passed


def response_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The model's headers as the client gets them; `date` and `server` are the gateway's."""
    dropped = _HOP_BY_HOP | {"date", "server", "x-request-id"}
    decoded = ((n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in headers)
    return [(name, value) for name, value in decoded if name not in dropped]
