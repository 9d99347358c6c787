# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model hub and to the addresses in entries: a listing, and a file from an offset on.

What is made of it is decided elsewhere. FetchInterrupted means that the same call may succeed
later, any other FetchFailed that it will not. The token goes to the hub only, least
of all to where it redirects to.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import quote

import httpx

from sparkd.core.errors import FetchFailed, FetchInterrupted, Misconfigured
from sparkd.core.numbers import bounded_int
from sparkd.core.weights import hub_listing
from sparkd.core.weights.hub import Listing
from sparkd.core.weights.hub_refusal import TOKEN_COMMAND, Asked, cleaned, refusal

_CONNECT_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 60.0
"""A transfer in which nothing comes for so long has broken off; it goes on where it was."""
_TIMEOUT = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
_MAX_REDIRECTS = 5
_LISTING_TIMEOUT_S = 120.0
"""A hub that sends a listing of some megabytes for longer sends it byte by byte."""
_LENGTH_MAX_BYTES = hub_listing.MAX_TOTAL_BYTES
_TOKEN_MAX_BYTES = 4096
_TOKEN_NAME = "hf-token"
_SENDS = (
    httpx.codes.OK,
    httpx.codes.PARTIAL_CONTENT,
    # There is nothing from the asked byte on: all that there is was fetched before.
    httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE,
)
_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/(?:[0-9]{1,19}|\*)")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_SHOWN = 80
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file that is being sent. `offset` is 0 if the server does not continue where asked to."""

    offset: int
    chunks: AsyncIterator[bytes]
    """Raises FetchInterrupted when it breaks off."""
    size_bytes: int | None = None
    """The size of the whole file, where the server tells one."""


class Hub:
    """One hub, with the token for it. Close it by `async with`."""

    def __init__(self, base_url: str, token: str | None) -> None:
        self._base = _hub_address(base_url)
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
        what = f"{repo} at {revision}"
        page = f"{self._base}/{repo}"
        body = bytearray()
        try:
            async with (
                asyncio.timeout(_LISTING_TIMEOUT_S),
                self.transfer(address, 0, what=what, page=page) as transfer,
            ):
                async for chunk in transfer.chunks:
                    body += chunk
                    if len(body) > hub_listing.MAX_BYTES:
                        raise FetchFailed(
                            f"the listing of {repo} has more than {hub_listing.MAX_BYTES} bytes"
                        )
        except TimeoutError as error:
            raise FetchInterrupted(
                f"{what}: no whole listing within {_LISTING_TIMEOUT_S:g} s"
            ) from error
        text = body.decode(errors="replace")
        return await asyncio.to_thread(hub_listing.parse_listing, repo, text)

    def address(self, repo: str, commit: str, path: str) -> str:
        """Where a file of a repository is."""
        return f"{self._base}/{repo}/resolve/{commit}/{quote(path)}"

    @asynccontextmanager
    async def transfer(
        self, address: str, offset: int, *, what: str, page: str = ""
    ) -> AsyncIterator[Transfer]:
        """A file from a byte on; `what` names it in errors, as addresses may hold signatures."""
        try:
            response = await self._open(_address(address, what), offset, what, page)
        except httpx.HTTPError as error:
            _interrupted(what, error)
        try:
            begin = _offset_of(response, offset)
            yield Transfer(begin, _chunks(response, what), _size_of(response, begin))
        finally:
            await response.aclose()

    async def _open(self, url: httpx.URL, offset: int, what: str, page: str) -> httpx.Response:
        for _ in range(_MAX_REDIRECTS):
            headers = {"range": f"bytes={offset}-"} if offset else {}
            with_token = bool(self._token) and _origin(url) == _origin(self._base)
            if with_token:
                headers["authorization"] = f"Bearer {self._token}"
            request = self._client.build_request("GET", url, headers=headers)
            response = await self._client.send(request, stream=True)
            target = response.headers.get("location") if response.is_redirect else None
            if target is None:
                break
            await response.aclose()
            url = _following(url, target, what)
        else:
            raise FetchFailed(f"{what}: more than {_MAX_REDIRECTS} redirects")
        if response.status_code not in _SENDS:
            await response.aclose()
            asked = Asked(what=what, host=url.host, page=page, with_token=with_token)
            raise refusal(response.status_code, _lowered(response.headers), asked, time.time())
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
        raise Misconfigured(
            f"token file {path} holds no token",
            hint=f"{TOKEN_COMMAND}, then paste one line, as hf_..., Enter, Ctrl-D",
        )
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
    raise FetchInterrupted(
        f"{what}: the transfer broke off: {cleaned(why)}",
        hint="check the network and `hub` in /etc/sparkd/sparkd.yaml; sparkctl keeps fetched parts",
    ) from error


def _offset_of(response: httpx.Response, asked: int) -> int:
    """The first byte of the answer; a server that knows no ranges sends the whole file."""
    if response.status_code == httpx.codes.OK:
        return 0
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return asked
    told = response.headers.get("content-range", "")
    found = _RANGE.fullmatch(told)
    if found is None or int(found[1]) != asked:
        raise FetchFailed(
            f"unexpected reply from {response.url.host}: asked for bytes from {asked} on, it sends "
            f"{told[:_SHOWN]!a}"
        )
    return asked


def _size_of(response: httpx.Response, begin: int) -> int | None:
    """The size of the whole file by the length of the rest; None where none is told."""
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return begin
    length = bounded_int(response.headers.get("content-length", ""), most=_LENGTH_MAX_BYTES)
    return None if length is None else begin + length


def _hub_address(base_url: str) -> httpx.URL:
    url = _http_url(base_url.rstrip("/"))
    if url is None:
        raise Misconfigured(
            f"the address of the hub is none: {base_url[:_SHOWN]!a}",
            hint="write it like https://huggingface.co, as hub: of sparkd.yaml or HF_ENDPOINT",
        )
    return url


def _address(address: str, what: str) -> httpx.URL:
    url = _http_url(address)
    if url is None:
        raise FetchFailed(f"{what}: its address is none", hint="write https://HOST/PATH")
    return url


def _following(url: httpx.URL, target: str, what: str) -> httpx.URL:
    """The address of a redirect. It leads to HTTP, and not from HTTPS to plain HTTP."""
    try:
        following = _http_url(str(url.join(target)))
    except (httpx.InvalidURL, ValueError):
        following = None
    if following is None:
        raise FetchFailed(f"{what}: {url.host} redirects to no address of HTTP")
    if url.scheme == "https" and following.scheme != "https":
        raise FetchFailed(f"{what}: {url.host} redirects to plain HTTP")
    return following


def _http_url(text: str) -> httpx.URL | None:
    """An address with a host and a port that can be; None for other texts."""
    try:
        url = httpx.URL(text)
        port = 80 if url.port is None else url.port
    except (httpx.InvalidURL, ValueError):
        return None
    known = url.scheme in ("http", "https") and 0 < port < 1 << 16
    return url if known and _HOST.fullmatch(url.raw_host.decode("ascii", "replace")) else None


def _lowered(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
