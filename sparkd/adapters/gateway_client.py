# SPDX-License-Identifier: Apache-2.0
"""HTTP to sparkd's gateway, for commands that use a model.

An answer that is an error becomes the error that it tells of, with the gateway's own message, code
and hint.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

from sparkd.core.errors import (
    Busy,
    Forbidden,
    HostError,
    Misconfigured,
    NotFound,
    NotPresent,
    RequestError,
    SparkdError,
    StartFailed,
    StartTimedOut,
    Unauthorized,
    Unavailable,
    UpstreamLost,
)
from sparkd.core.http.keep_alive import HEADER
from sparkd.core.http.sse import Item, Reader
from sparkd.core.model import KeepAlive

_CONNECT_TIMEOUT_S = 10.0
_BY_STATUS: dict[int, type[SparkdError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    429: Busy,
    500: HostError,
    502: StartFailed,
    503: Unavailable,
    504: StartTimedOut,
}
_BY_CODE: dict[str, type[SparkdError]] = {
    **dict.fromkeys(("misconfigured", "model_misconfigured", "model_disabled"), Misconfigured),
    **dict.fromkeys(("weights_missing", "weights_unreadable", "weights_misplaced"), NotPresent),
    **dict.fromkeys(("files_missing", "image_missing", "model_not_present"), NotPresent),
    # In a stream that has begun nothing else tells the kind.
    "busy": Busy,
    **dict.fromkeys(("unavailable", "gpu_held", "insufficient_memory"), Unavailable),
    "model_too_large": Unavailable,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, of whatever status."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


class Gateway:
    """The gateway at an address. Close it by `async with`."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            # No read timeout: a model may load for long, and think for long before it answers.
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            # A proxy has no business between us and our own host.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, path: str, body: Mapping[str, object] | None) -> Reply:
        """One request, POST if it has a body. Raises HostError when there is no answer."""
        method = "GET" if body is None else "POST"
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        return Reply(response.status_code, response.headers, _object(response.text))

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncIterator[Stream]:
        """A request whose answer comes as events. Raises the error that the gateway answers."""
        try:
            request = self._client.build_request(
                "POST", path, json={**body, "stream": True}, headers={HEADER: KeepAlive.COMMENT}
            )
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        try:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise error_of(response.status_code, _object(text))
            yield Stream(response)
        finally:
            await response.aclose()

    def _lost(self, error: httpx.HTTPError) -> HostError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return HostError(
                f"nothing listens at {self._url}",
                hint="sudo systemctl enable --now sparkd.socket",
                code="gateway_down",
            )
        return HostError(
            f"the gateway at {self._url} broke off: {type(error).__name__}",
            hint="sudo journalctl -u sparkd -n 20",
            code="gateway_down",
        )


class Stream:
    """The events of one answer, in objects, and the comments between them."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def items(self) -> AsyncIterator[Item]:
        """Up to `[DONE]`, which is left out. Raises the error that ends the stream early."""
        reader, done = Reader(), False
        try:
            async for piece in self._response.aiter_raw():
                for item in reader.feed(piece):
                    done = done or item.text == "[DONE]"
                    if done:
                        continue
                    if not item.is_comment and "error" in (value := _object(item.text)):
                        raise error_of(httpx.codes.BAD_GATEWAY, value)
                    yield item
        except httpx.HTTPError as error:
            raise UpstreamLost(f"the answer broke off: {type(error).__name__}") from error
        if not done:
            raise UpstreamLost("the answer ended before it was whole")


def error_of(status: int, body: Mapping[str, Any]) -> SparkdError:
    """The error that the gateway, or an engine behind it, answered with."""
    told = body.get("error")
    told = told if isinstance(told, dict) else {}
    code, hint = str(told.get("code") or ""), str(told.get("hint") or "")
    message = str(told.get("message") or f"the gateway answers {status}")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, RequestError)
    # The hint stands in the message too, for clients that show nothing else.
    message = message.removesuffix(f" ({hint})")
    return kind(message, hint=hint, code=code or None)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
