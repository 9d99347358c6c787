# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model hub and to addresses that entries name: a listing, a file from some byte on.

What is made of it is decided elsewhere. FetchInterrupted means that the same call may succeed
later, any other FetchFailed that it will not. The token goes to the hub and to nobody else, least
of all to where it redirects to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import quote

import httpx

from sparkd.core.errors import FetchFailed, FetchInterrupted, Misconfigured
from sparkd.core.hub import Listing, parse_listing

_CONNECT_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 60.0
"""A transfer in which nothing comes for so long has broken off; it goes on where it was."""
_TIMEOUT = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
_MAX_REDIRECTS = 5
_LISTING_MAX_BYTES = 64 << 20
_TOKEN_MAX_BYTES = 4096
_TOKEN_NAME = "hf-token"
_SENDS = (
    httpx.codes.OK,
    httpx.codes.PARTIAL_CONTENT,
    # There is nothing from the asked byte on: all that there is was fetched before.
    httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE,
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file that is being sent. `offset` is 0 if the server does not continue where asked to."""

    offset: int
    chunks: AsyncIterator[bytes]
    """Raises FetchInterrupted when it breaks off."""


class Hub:
    """One hub, with the token for it. Close it by `async with`."""

    def __init__(self, base_url: str, token: str | None) -> None:
        self._base = httpx.URL(base_url.rstrip("/"))
        self._token = token
        self._client = httpx.AsyncClient(
            timeout=_TIMEOUT,
            # Followed here, so that it is seen who gets the token.
            follow_redirects=False,
            # Lengths and checksums are of what is stored.
            headers={"accept-encoding": "identity", "user-agent": "sparkd"},
        )
        if token and self._base.scheme != "https" and self._base.host not in _LOOPBACK:
            raise Misconfigured(
                f"the token of the hub would go to {self._base} in the clear",
                hint="write hub: https://... in /etc/sparkd/sparkd.yaml",
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def listing(self, repo: str, revision: str) -> Listing:
        """The files of a repository at the commit that a branch, tag or commit names now."""
        address = f"{self._base}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        body = bytearray()
        async with self.transfer(address, 0, what=f"{repo} at {revision}") as transfer:
            async for chunk in transfer.chunks:
                body += chunk
                if len(body) > _LISTING_MAX_BYTES:
                    raise FetchFailed(f"what the hub says of {repo} has no end")
        return parse_listing(repo, body.decode(errors="replace"))

    def address(self, repo: str, commit: str, path: str) -> str:
        """Where a file of a repository is."""
        return f"{self._base}/{repo}/resolve/{commit}/{quote(path)}"

    @asynccontextmanager
    async def transfer(self, address: str, offset: int, *, what: str) -> AsyncIterator[Transfer]:
        """A file from a byte on; `what` names it in errors, as addresses may hold signatures."""
        try:
            response = await self._open(httpx.URL(address), offset, what)
        except httpx.HTTPError as error:
            _interrupted(what, error)
        try:
            yield Transfer(_offset_of(response, offset), _chunks(response, what))
        finally:
            await response.aclose()

    async def _open(self, url: httpx.URL, offset: int, what: str) -> httpx.Response:
        for _ in range(_MAX_REDIRECTS):
            headers = {"range": f"bytes={offset}-"} if offset else {}
            if self._token and _origin(url) == _origin(self._base):
                headers["authorization"] = f"Bearer {self._token}"
            request = self._client.build_request("GET", url, headers=headers)
            response = await self._client.send(request, stream=True)
            target = response.headers.get("location") if response.is_redirect else None
            if target is None:
                break
            await response.aclose()
            following = url.join(target)
            if url.scheme == "https" and following.scheme != "https":
                raise FetchFailed(f"{what}: {url.host} redirects to plain HTTP")
            url = following
        else:
            raise FetchFailed(f"{what}: more than {_MAX_REDIRECTS} redirects")
        if response.status_code not in _SENDS:
            await response.aclose()
            raise _refusal(response, url.host, what, with_token=bool(self._token))
        return response


def read_token(config_dir: Path, environ: Mapping[str, str]) -> str | None:
    """The token from the systemd credential or the file `hf-token`; None where there is neither.

    Raises Misconfigured, without the token, when the file is not fit for one.
    """
    path = config_dir / _TOKEN_NAME
    credentials_dir = environ.get("CREDENTIALS_DIRECTORY")
    if credentials_dir and os.path.exists(Path(credentials_dir) / _TOKEN_NAME):
        path = Path(credentials_dir) / _TOKEN_NAME
    hint = f"sudo chgrp sparkd {path}; sudo chmod 0640 {path}"
    try:
        with open(path, encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IRWXO:
                raise Misconfigured(f"token file {path} is open to everybody", hint=hint)
            token = file.read(_TOKEN_MAX_BYTES).strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise Misconfigured(f"user sparkd may not read token file {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"token file {path} is not readable") from error
    if not token.isprintable() or " " in token:
        raise Misconfigured(f"token file {path} holds no token", hint="one line, as hf_...")
    return token or None


async def _chunks(response: httpx.Response, what: str) -> AsyncIterator[bytes]:
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        _interrupted(what, error)


def _interrupted(what: str, error: httpx.HTTPError) -> NoReturn:
    # The type alone when there is no text: a timeout has none.
    why = str(error) or type(error).__name__
    raise FetchInterrupted(f"{what}: the transfer broke off: {why}") from error


def _offset_of(response: httpx.Response, asked: int) -> int:
    """From which byte on the answer is; a server that knows no ranges sends all of it."""
    if response.status_code == httpx.codes.OK:
        return 0
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return asked
    begins = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    if begins != str(asked):
        raise FetchFailed(f"asked for bytes from {asked} on, {response.url.host} sends {begins!r}")
    return asked


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _refusal(response: httpx.Response, host: str, what: str, *, with_token: bool) -> FetchFailed:
    status = response.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return FetchFailed(
            f"{what}: {host} {'refuses the token' if with_token else 'wants a token'} ({status}),"
            " or there is no such repository",
            hint="sudo install -m 0640 -g sparkd /dev/stdin /etc/sparkd/hf-token",
            code="hub_denied",
        )
    if status == httpx.codes.FORBIDDEN:
        return FetchFailed(
            f"{what}: {host} does not allow it ({status})",
            hint="accept the terms of the repository on the hub's page, with the account of the "
            "token in /etc/sparkd/hf-token",
            code="hub_denied",
        )
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        return FetchFailed(
            f"{what}: not at {host} ({status})",
            hint="sparkctl check; repo, revision and file of the entry must be as on the hub",
            code="hub_not_found",
        )
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        after = response.headers.get("retry-after", "")
        return FetchInterrupted(
            f"{what}: {host} answers {status}",
            hint="try again later; what was fetched is kept",
            retry_after_s=int(after) if after.isascii() and after.isdigit() else None,
        )
    return FetchFailed(f"{what}: {host} answers {status}")
