# SPDX-License-Identifier: Apache-2.0
"""One request to one model: ensure it, send the request, lend the answer while it streams.

The use lease lives exactly as long as the answer. A server that could not be reached saw nothing
of the request, so the model is ensured once more and the request is sent again; one that broke off
may have acted, so that is the client's to repeat.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparkd.adapters.engine.client import Answer, ConnectFailed, EngineClient
from sparkd.core.engine.response_filter import passes
from sparkd.core.errors import UpstreamLost
from sparkd.core.http.keep_alive import HEADER as KEEP_ALIVE
from sparkd.core.http.request_parser import connection_options
from sparkd.core.json.spliced import Payload
from sparkd.core.model import Config, ModelSpec
from sparkd.core.observed import Endpoint
from sparkd.lifecycle.leases import UseLease
from sparkd.scheduling.ensure import Ensurer
from sparkd.scheduling.queue import Grant, OnWait

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    }
)
_OURS = frozenset(
    {
        *("authorization", "x-api-key", "api-key", "cookie", "host", "content-length", "expect"),
        # The engine has its own rules for browsers, and would apply them.
        *("origin", "x-request-id", KEEP_ALIVE),
    }
)
"""Headers between the client and the gateway only."""
_STOPPED = _HOP_BY_HOP | _OURS

OnGrant = Callable[[Grant], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request as the model's server is to see it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Payload


class BorrowedResponse:
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
        self._clients: dict[Endpoint, EngineClient] = {}

    async def answer(
        self,
        config: Config,
        spec: ModelSpec,
        outgoing: Outgoing,
        on_grant: OnGrant,
        on_wait: OnWait | None = None,
    ) -> BorrowedResponse:
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
        return BorrowedResponse(answer, grant.lease)

    async def close(self) -> None:
        for engine_client in self._clients.values():
            await engine_client.close()

    async def _send(self, grant: Grant, outgoing: Outgoing) -> Answer:
        """The answer, its head arrived; without one, the lease of the grant is closed.

        Raises UpstreamLost for a status that a client must not see, such as a redirect.
        """
        try:
            answer = await self._client(grant.endpoint).send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body
            )
            if not passes(answer.status):
                await answer.close()
                raise _refused(answer.status)
        except BaseException:
            grant.lease.close()
            raise
        return answer

    def _client(self, endpoint: Endpoint) -> EngineClient:
        engine_client = self._clients.get(endpoint)
        if engine_client is None:
            engine_client = self._clients[endpoint] = EngineClient(endpoint)
        return engine_client


def request_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The client's headers, names in lower case, as the model's server gets them.

    `x-request-id` is a new one: an engine may fail on an id that it has seen, and a client may
    send one twice.
    """
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
    passed["x-request-id"] = secrets.token_hex(16)
    return passed


def _refused(status: int) -> UpstreamLost:
    return UpstreamLost(
        f"the model's server answered with status {status}, which is not passed on",
        hint="sudo sparkctl logs MODEL; remove options such as --api-key from its entry",
        code="upstream_status",
    )
