# SPDX-License-Identifier: Apache-2.0
"""One inference request on the wire: its body in, notices while it waits, the answer out.

A streaming client that waits gets keep-alives in the form of `core.http.keep_alive`. The first one
commits the response to 200 and an event stream; a later failure becomes an error event of the
client's dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic

from sparkd.adapters.engine.client import Answer
from sparkd.adapters.journal.writer import note
from sparkd.core.access.quota import Meter
from sparkd.core.engine import error_translation
from sparkd.core.engine.response_filter import passed_headers
from sparkd.core.errors import (
    BodyTooLarge,
    RequestError,
    SparkdError,
    UnknownEncoding,
    UpstreamLost,
)
from sparkd.core.http.keep_alive import KeepAlives, may_follow
from sparkd.core.http.sse import EndMark, SequenceNumber
from sparkd.core.json.spliced import Raw
from sparkd.core.model import LogRequests, Settings
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.traffic import ResponseMeter, Traffic
from sparkd.gateway.admission import is_admin, visibility_of
from sparkd.gateway.body_budget import BodyBudget, BodyShare
from sparkd.gateway.handlers.keep_alive_timer import KeepAliveTimer
from sparkd.gateway.http.messages import Request, ResponseStream
from sparkd.gateway.http.protocol import HttpCycle
from sparkd.gateway.render import Shape, error_event, shape_of
from sparkd.scheduling.queue import Grant, Progress

_BODY_STALL_S = 60.0
"""A client that sends no byte of its body for this long is gone."""
_BODY_SLOWEST_BYTES_S = 4096
"""Below this pace, after the time above, it only wants to hold a connection."""
_ERROR_BODY_S = 10.0
"""How long the rest of an engine's error may take."""
_EVENT_STREAM = "text/event-stream"


Explain = Callable[[str, UpstreamLost], Awaitable[None]]
"""Adds to the error of a broken answer why its model died."""


class Relay:
    """One request with its response, and its journal entry, which quotes neither."""

    def __init__(
        self, request: Request, request_id: str, traffic: Traffic, bodies: BodyBudget
    ) -> None:
        self._request = request
        self._wire = request.cycle
        self._response: ResponseStream | None = None
        self._share = BodyShare(bodies)
        self._traffic = traffic
        self._response_meter: ResponseMeter | None = None
        self._keep_alive_timer: KeepAliveTimer | None = None
        self.request_id = request_id
        self.shape = shape_of(request.path, request.headers)
        self._number = SequenceNumber() if self.shape is Shape.RESPONSES else None
        self.operation = "-"
        self.model_id = "-"
        self.key_name: str | None = None
        self.meter: Meter | None = None
        self.waited_ms = self.loaded_ms = 0
        """In the queue, and of its model's start."""
        self.status = 0
        self.reason: str | None = None
        self.complete = False
        """Whether the client was sent all of its answer, whatever it does afterwards."""

    async def read_body(self, settings: Settings) -> Raw:
        """The whole body, counted among all bodies in memory.

        Raises BodyTooLarge, BodiesFull, UnknownEncoding, or RequestError when it stalls.
        """
        limit_bytes = settings.body_limit_bytes
        together_bytes = max(settings.bodies_limit_bytes, limit_bytes)
        encoding = self._request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise UnknownEncoding(
                f"the body has content-encoding {encoding[:40]!r}, only plain ones are read",
                hint="switch the compression of requests off in the client",
            )
        announced = self._wire.request_bytes
        if announced > limit_bytes:
            raise _too_large(announced, limit_bytes)
        self._share.check(announced, together_bytes)
        body: Raw = b""
        began_s = monotonic()
        try:
            while True:
                part = await self._request.body_part(_BODY_STALL_S)
                if monotonic() - began_s > _BODY_STALL_S + len(body) / _BODY_SLOWEST_BYTES_S:
                    raise TimeoutError
                if not part:
                    return body
                if len(body) + len(part) > limit_bytes:
                    raise _too_large(len(body) + len(part), limit_bytes)
                self._share.take(len(part), together_bytes)
                # It grows in place: joining parts at the end would stop the loop.
                body = bytearray(body) if isinstance(body, bytes) and body else body
                body += part
        except TimeoutError:
            self._wire.give_up_body()
            raise RequestError(
                f"the body stopped or crept: {len(body)} bytes in {monotonic() - began_s:.0f} s",
                hint="send it again; look for a proxy that cuts requests",
                code="body_stalled",
            ) from None

    def prepared(self, size_bytes: int) -> None:
        """Only the body for the engine, of this size, is left in memory."""
        self._share.settle(size_bytes)

    def sent(self) -> None:
        """The engine has the body, and it has left memory."""
        self._share.settle(0)

    def keep_alive(self, beats: KeepAlives) -> None:
        """Send keep-alives while the client waits; for requests with a stream as response."""
        self._keep_alive_timer = KeepAliveTimer(self._wire, beats, self._begin_stream)

    @property
    def keeps_alive(self) -> bool:
        return self._keep_alive_timer is not None

    def hurry_when(self, wanted: Callable[[], bool]) -> None:
        """Bound a client that does not take its response more tightly while `wanted` says so."""
        self._wire.hurry_when(wanted)

    def close(self) -> None:
        """End the keep-alives."""
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.close()

    def granted(self, grant: Grant) -> None:
        """The model is there: note for the answer's head how long that took."""
        self.waited_ms, self.loaded_ms = round(grant.queue_s * 1000), round(grant.load_s * 1000)
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.start()

    async def notice(self, progress: Progress) -> None:
        """Send a waiting client a keep-alive, with the progress if its form has words."""
        if self._keep_alive_timer is not None:
            await self._keep_alive_timer.stop()
            await self._begin_stream(self._keep_alive_timer.beat(_told(progress)))

    async def _begin_stream(self, beat: bytes) -> None:
        if self._response is None:
            kind = {"content-type": _EVENT_STREAM, "cache-control": "no-cache"}
            await self._respond(200, kind)
        await self._send(beat)

    async def relay(self, answer: Answer, explain: Explain) -> None:
        """Pass the answer on as it comes; one that breaks off ends the client's with an error."""
        if self._keep_alive_timer is not None:
            await self._keep_alive_timer.stop()
        if self._response is None and self._needs_our_words(answer):
            error = await self._refusal(answer)
            error.headers["x-sparkd-model"] = self.model_id
            raise error
        streams = answer.content_type.startswith(_EVENT_STREAM)
        if self._response is not None and not (streams and answer.status == 200):
            await self._relay_refusal(answer)
            return
        # The head of a stream goes at once, any other head with the first bytes of its body.
        first = answer.at_hand() if streams or answer.whole else await answer.next()
        if self._response is None:
            headers = dict(passed_headers(answer.headers))
            if streams:
                headers.pop("content-length", None)  # An error event may have to follow.
            await self._respond(answer.status, headers)
        response_meter = self._response_meter = self._traffic.response_meter(
            self.model_id, streaming=streams
        )
        if first:
            response_meter.chunk(first, monotonic())
            if self._number is not None:
                self._number.feed(first)
        await self._send(first, end=answer.whole)
        if answer.whole:
            return
        sink = _Measured(self._wire, response_meter, self._number)
        if self._keep_alive_timer is not None and _may_be_added_to(answer):
            self._keep_alive_timer.start(response_meter)
        try:
            await (self._pour_to_mark(answer, sink, first) if streams else answer.pour(sink))
        except UpstreamLost as error:
            await explain(self.model_id, error)
            self.failed(error)
            if not streams:
                # Only a broken connection shows that a body of known kind is not whole.
                self._wire.cut()
                return
            self.close()
            # The line that the engine broke off must not swallow the error.
            await self._send(b"" if may_follow(response_meter.tail()) else b"\n\n")
            await self._tell(error)
        self.close()
        await self._end()

    def _needs_our_words(self, answer: Answer) -> bool:
        """Whether an engine's error goes out as an error of the gateway, with its retry headers."""
        if self.shape is Shape.ANTHROPIC:
            return answer.status >= 400
        return answer.status >= 500 and not answer.content_type.startswith(_EVENT_STREAM)

    async def _pour_to_mark(self, answer: Answer, sink: _Measured, first: bytes) -> None:
        """Pour a stream; one that only its connection ends must say that it is whole."""
        if not answer.ends_with_connection:
            await answer.pour(sink)
            return
        watched = _Watched(sink, first)
        await answer.pour(watched)
        if not watched.mark.seen:
            raise UpstreamLost(
                "the model broke off its answer: the stream has no end mark",
                hint="sudo sparkctl logs MODEL tells why it ended; then send the request again",
            )

    async def fail(self, error: SparkdError) -> bool:
        """Send an error as an event, if the stream has begun; whether it had."""
        self.failed(error)
        if self._keep_alive_timer is not None:
            await self._keep_alive_timer.stop()
        if self._response is None:
            return False
        await self._tell(error)
        await self._end()
        return True

    def failed(self, error: SparkdError) -> None:
        self.reason = error.code
        self.status = self.status or error.http_status

    def ended(self, began_s: float, told: LogRequests) -> None:
        """Count the request, and log it if that is wanted."""
        self._share.settle(0)
        now_s = monotonic()
        labels = (self.model_id, self.operation, str(self.status), self.reason or "")
        tokens = self._traffic.ended(labels, self._response_meter, began_s=began_s, now_s=now_s)
        if self.meter is not None and tokens:
            self.meter.used_tokens(
                input_tokens=tokens.get("prompt", 0), output_tokens=tokens.get("completion", 0)
            )
        good = self.reason is None and self.status < 400
        if told is LogRequests.ALL or (told is LogRequests.ERRORS and not good):
            self._log(now_s - began_s)

    def _log(self, took_s: float) -> None:
        note(
            __name__,
            EventKind.REQUEST,
            f"{self.operation} for model {self.model_id}: {self.reason or self.status} "
            f"in {took_s * 1000:.0f} ms",
            model=self.model_id,
            key_name=self.key_name,
            request_id=self.request_id,
            status=self.status,
            reason=self.reason,
            duration_ms=round(took_s * 1000),
        )

    async def _respond(self, status: int, headers: dict[str, str]) -> None:
        headers["x-request-id"] = self.request_id
        headers["x-sparkd-model"] = self.model_id
        headers["x-sparkd-queue-ms"] = str(self.waited_ms)
        headers["x-sparkd-load-ms"] = str(self.loaded_ms)
        self.status = status
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.begun = True
        self._response = await self._request.respond(status, headers)

    async def _refusal(self, answer: Answer) -> SparkdError:
        """The engine's own error, worded for the API that the client speaks."""
        said = b""
        with contextlib.suppress(TimeoutError, UpstreamLost):
            async with asyncio.timeout(_ERROR_BODY_S):
                said, _ = await answer.read(error_translation.BODY_MOST_BYTES)
        error = error_translation.read(answer.status, said, anthropic=self.shape is Shape.ANTHROPIC)
        pause = dict(passed_headers(answer.headers)).get("retry-after")
        error.retry_after_s = None if pause is None else int(pause)
        return error

    async def _relay_refusal(self, answer: Answer) -> None:
        """An engine's error after the stream to the client has begun: it goes out as an event."""
        error = await self._refusal(answer)
        self.reason = error.code
        await self._tell(error)
        await self._end()

    async def _tell(self, error: SparkdError) -> None:
        error = visibility_of(self._request).error(error)
        number = self._number.following if self._number is not None else 0
        admin = is_admin(self._request)
        await self._send(error_event(error, self.shape, admin=admin, number=number))

    async def _send(self, data: bytes, *, end: bool = False) -> None:
        if self._response is not None:
            await self._response.send(data, end=end)
            self.complete = self.complete or end

    async def _end(self) -> None:
        await self._send(b"", end=True)


class _Measured:
    """A sink that writes to the client and meters the response."""

    def __init__(
        self, wire: HttpCycle, response_meter: ResponseMeter, number: SequenceNumber | None
    ) -> None:
        self._wire = wire
        self._response_meter = response_meter
        self._number = number

    def put(self, data: bytes) -> bool:
        self._response_meter.chunk(data, monotonic())
        if self._number is not None:
            self._number.feed(data)
        return self._wire.put(data)

    async def drained(self) -> None:
        await self._wire.drained()


class _Watched:
    """A metered sink that also looks for the end mark of a stream."""

    def __init__(self, wire: _Measured, first: bytes) -> None:
        self._wire = wire
        self.mark = EndMark()
        self.mark.feed(first)

    def put(self, data: bytes) -> bool:
        self.mark.feed(data)
        return self._wire.put(data)

    async def drained(self) -> None:
        await self._wire.drained()


def _may_be_added_to(answer: Answer) -> bool:
    """Whether a response is a plain event stream, to which an event can be added."""
    encoded = any(name == b"content-encoding" for name, _ in answer.headers)
    return answer.status == 200 and answer.content_type.startswith(_EVENT_STREAM) and not encoded


def _too_large(size: int, limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has {size} bytes or more, the limit is {limit_bytes}",
        hint="send less, or raise body_limit in /etc/sparkd/sparkd.yaml",
    )


def _told(progress: Progress) -> str:
    doing = "loading" if progress.loading else "queued for"
    text = f"sparkd {doing} {progress.model_id} {progress.elapsed_s:.0f}s"
    if not progress.loading:
        text += f", {progress.why}"
    elif progress.load is not None:
        text += f", {progress.load.text}"
    if progress.typical_s is not None:
        text += f", typically {progress.typical_s:.0f}s"
    return text
