# SPDX-License-Identifier: Apache-2.0
"""Every error that a user can meet, without its presentation.

An error says what is wrong in one line, with the value in it, and carries a hint that says what
to do about it, as a command where one helps. `code` is stable and documented in
docs/reference/errors.md; `gateway.render` turns an error into the body of the client's dialect and
`sparkctl.main` into a line on stderr.

    SparkdError
    ├── RequestError          400  the request itself is wrong
    │   ├── Unauthorized      401  no key, or a wrong one
    │   ├── Forbidden         403  a right key that may not do this
    │   ├── NotFound          404  no such model, path or running instance
    │   │   ├── Disabled      404  a model that the catalog has switched off
    │   │   └── NotPresent    404  a model whose weights or image are not on this host
    │   ├── BodyTooLarge      413  the body is over the limit
    │   │   └── BodyTooComplex
    │   │                     413  parsing it would take too much memory
    │   ├── HeadTooLarge      431  the head is over the limit
    │   ├── UnknownEncoding   415  the body is compressed
    │   └── TooManyRequests   429  the key, or its address, asks more than it may
    ├── Unavailable           503  right request, not now
    │   ├── BodiesFull        503  the bodies of other requests take all the memory for bodies
    │   ├── GpuHeld           503  another program holds the GPU
    │   ├── InsufficientMemory
    │   │                     503  it does not fit beside what runs, or never will
    │   ├── Busy              429  another model is in use and the wait was too long
    │   └── Misconfigured     503  the configuration (or one entry of it) does not parse
    ├── StartFailed           502  the model's container did not become ready
    │   ├── StartCrashed      502  it exited while starting
    │   └── StartTimedOut     504  it was not healthy within its load timeout
    ├── FetchFailed           502  weights or files could not be fetched
    │   └── FetchInterrupted  502  and another try may succeed
    ├── UpstreamLost          502  the model died or broke off while it answered
    └── HostError             500  systemd, Podman or the file system refused something

Each class says whether it is `final`: the same request fails the same way until a person changes
something. `gateway.render` tells clients, so that they stop and show the message. `_FINAL_CODES`
and `_PASSING_CODES` list the codes that differ from their class.
"""

from __future__ import annotations

from typing import ClassVar

_FINAL_CODES = frozenset({"model_too_large", "cdi_unresolvable"})
_PASSING_CODES = frozenset({"body_stalled"})
_PASSING_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses that themselves ask the client to send the request again."""


def room_hint(directory: object) -> str:
    """What tells whether bytes or files are what a full file system lacks."""
    return f"df -h {directory}; df -i {directory}"


class SparkdError(Exception):
    """The base of all: one line that says what is wrong, and a hint that says what to do."""

    code = "internal_error"
    http_status = 500
    lasting: ClassVar[bool] = False
    """Whether an error of this class stays until a person changes something."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        retry_after_s: int | None = None,
        param: str | None = None,
        discreet: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.discreet = message if discreet is None else discreet
        """The message for who does not administer this host; another one if that tells too much."""
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.param = param
        self.details: dict[str, object] = {}
        """Further fields of the error's body."""
        self.headers: dict[str, str] = {}
        """Further headers of its answer."""
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self._with_hint(self.message)

    @property
    def final(self) -> bool:
        """Whether sending the same request again would change nothing."""
        if self.code in _PASSING_CODES or self.http_status in _PASSING_STATUSES:
            return False
        return self.lasting or self.code in _FINAL_CODES

    def told(self, *, admin: bool) -> str:
        """What a client is told, an admin's or another."""
        return self._with_hint(self.message if admin else self.discreet)

    def _with_hint(self, text: str) -> str:
        return f"{text} ({self.hint})" if self.hint else text


class RequestError(SparkdError):
    code = "invalid_request"
    http_status = 400
    lasting = True


class Unauthorized(RequestError):
    """A request without a key that is valid here, with the challenge of RFC 6750."""

    code = "invalid_api_key"
    http_status = 401

    def __init__(
        self, message: str, *, hint: str = "", code: str | None = None, sent: bool = False
    ) -> None:
        """`sent` says whether the request carried a key."""
        super().__init__(message, hint=hint, code=code)
        refused = ', error="invalid_token"' if sent else ""
        self.headers["www-authenticate"] = f'Bearer realm="sparkd"{refused}'


class Forbidden(RequestError):
    code = "forbidden"
    http_status = 403


class NotFound(RequestError):
    code = "not_found"
    http_status = 404


class Disabled(NotFound):
    """Not 503: clients try those again, and this one stays."""

    code = "model_disabled"


class NotPresent(NotFound):
    """A configured model whose weights, image or files are missing on this host.

    `details` lists them as `missing`. 404, because a client that tries again changes nothing.
    """

    code = "model_not_present"


class BodyTooLarge(RequestError):
    code = "body_too_large"
    http_status = 413


class BodyTooComplex(BodyTooLarge):
    code = "body_too_complex"


class HeadTooLarge(RequestError):
    code = "head_too_large"
    http_status = 431


class UnknownEncoding(RequestError):
    code = "encoding_unsupported"
    http_status = 415


class TooManyRequests(RequestError):
    code = "rate_limited"
    http_status = 429


class Unavailable(SparkdError):
    code = "unavailable"
    http_status = 503


class BodiesFull(Unavailable):
    code = "bodies_full"


class GpuHeld(Unavailable):
    code = "gpu_held"


class InsufficientMemory(Unavailable):
    code = "insufficient_memory"


class Busy(Unavailable):
    code = "busy"
    http_status = 429


class Misconfigured(Unavailable):
    code = "misconfigured"
    lasting = True


class StartFailed(SparkdError):
    """A start that failed.

    Another start may take minutes and mostly fails the same way. sparkd itself limits how often it
    tries (`core.scheduling.backoff`), so clients do not have to.
    """

    code = "start_failed"
    http_status = 502
    lasting = True


class StartCrashed(StartFailed):
    code = "start_crashed"


class StartTimedOut(StartFailed):
    code = "start_timed_out"
    http_status = 504


class FetchFailed(SparkdError):
    """What a model needs could not be fetched, and trying again changes nothing."""

    code = "fetch_failed"
    http_status = 502
    lasting = True


class FetchInterrupted(FetchFailed):
    """A transfer broke off, or the other side is overloaded: try again where it ended."""

    code = "fetch_interrupted"
    lasting = False


class UpstreamLost(SparkdError):
    """The engine broke off while it had the request.

    This request may have ended the engine, and each try would load the model again. The other
    causes (an admin stopped the model, memory ran short) are no reason to load it either.
    """

    code = "upstream_lost"
    http_status = 502
    lasting = True


class HostError(SparkdError):
    code = "host_error"
