#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Hugging Face's hub: the shapes of its API that a pull uses, from a directory.

    server.py DIRECTORY [--port PORT] [--token TOKEN]

Serves DIRECTORY/ORG/NAME/... as repositories with one commit each. As at the real one, a file of
`LARGE_BYTES` or more is named by its sha256 and sent from another origin, to which one is
redirected (here: another port); a smaller one is named by git's id and sent at once. It prints both
ports, misbehaves as `PUT /stand-in/behave` says, and tells by `GET /stand-in/requests` what was
asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

LARGE_BYTES = 4096
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What goes wrong; the default is nothing."""

    only: str = ""
    """For addresses that contain this."""
    times: int = 1 << 30
    """So often."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Of a misbehaving answer, such as `retry-after` or `location`."""
    reply: str = ""
    """The body of a listing, whatever the repository holds."""
    endless: bool = False
    """A body without a length and without an end."""
    ignore_range: bool = False
    corrupt: bool = False
    """The first byte of a file is another one."""
    cut_after: int = 0
    """The connection ends after so many bytes of a file."""
    bytes_per_s: int = 0
    """So slowly, until the stand-in is told to behave otherwise."""


@dataclass
class Stage:
    """What all connections share."""

    directory: Path
    token: str
    port: int
    other_port: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    requests: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def misbehaviour(self, path: str) -> Behaviour:
        """How this request is to be treated."""
        with self.lock:
            if self.behaviour.only not in path or self.behaviour.times < 1:
                return Behaviour()
            self.behaviour = replace(self.behaviour, times=self.behaviour.times - 1)
            return self.behaviour


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stage: Stage

    def do_PUT(self) -> None:
        length = int(self.headers["content-length"])
        self.stage.behaviour = Behaviour(**json.loads(self.rfile.read(length)))
        self.stage.requests.clear()
        self._send(200, b"{}")

    def do_GET(self) -> None:
        if self.path == "/stand-in/requests":
            return self._send(200, json.dumps(self.stage.requests).encode())
        path = unquote(self.path.partition("?")[0])
        self.stage.requests.append(
            {
                "path": path,
                "port": self.server.server_address[1],
                "authorization": self.headers.get("authorization"),
                "range": self.headers.get("range"),
            }
        )
        behaviour = self.stage.misbehaviour(path)
        if behaviour.status:
            return self._send(behaviour.status, b"{}", **behaviour.headers)
        if behaviour.endless:
            return self._send_without_end()
        if self.server.server_address[1] != self.stage.port:
            return self._send_file(self.stage.directory / path.lstrip("/"), behaviour)
        if self.stage.token and self.headers.get("authorization") != f"Bearer {self.stage.token}":
            return self._send(401, b"{}")
        return self._hub(path.strip("/").split("/"), behaviour)

    def _hub(self, parts: list[str], behaviour: Behaviour) -> None:
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            if behaviour.reply:
                return self._send(200, behaviour.reply.encode())
            if parts[3].startswith("old-"):
                target = f"/api/models/{parts[2]}/{parts[3][4:]}/revision/{parts[5]}?blobs=true"
                return self._send(307, b"", location=target)
            directory = self.stage.directory / parts[2] / parts[3]
            known = parts[5] in ("main", commit_of(directory)) if directory.is_dir() else False
            return self._send(200, listing(directory)) if known else self._send(404, b"{}")
        if parts[2:3] == ["resolve"]:
            file = self.stage.directory.joinpath(parts[0], parts[1], *parts[4:])
            if file.is_file() and file.stat().st_size >= LARGE_BYTES:
                where = quote(str(file.relative_to(self.stage.directory)))
                target = f"http://127.0.0.1:{self.stage.other_port}/{where}?signature=secret"
                return self._send(302, b"", location=target)
            return self._send_file(file, behaviour)
        return self._send(404, b"{}")

    def _send_file(self, file: Path, behaviour: Behaviour) -> None:
        if not file.is_file():
            return self._send(404, b"{}")
        content = file.read_bytes()
        begin = 0
        asked = self.headers.get("range")
        if asked and not behaviour.ignore_range:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(content):
                return self._send(416, b"")
        if behaviour.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(206 if begin else 200)
        self.send_header("content-length", str(len(content) - begin))
        if begin:
            self.send_header("content-range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = begin + behaviour.cut_after if behaviour.cut_after else len(content)
        for at in range(begin, min(end, len(content)), _CHUNK_BYTES):
            chunk = content[at : min(at + _CHUNK_BYTES, end)]
            self.wfile.write(chunk)
            if behaviour.bytes_per_s and self.stage.behaviour.bytes_per_s:
                time.sleep(len(chunk) / behaviour.bytes_per_s)
        self.close_connection = self.close_connection or end < len(content)
        return None

    def _send_without_end(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + b" " * _CHUNK_BYTES + b"\r\n")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (it is named so)
        """Requests are told by /stand-in/requests."""


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """That clients leave is what the tests are about."""


def listing(directory: Path) -> bytes:
    """The answer of /api/models/ORG/NAME/revision/REVISION?blobs=true."""
    files = [described(path, directory) for path in _files(directory)]
    repo = "/".join(directory.parts[-2:])
    return json.dumps({"id": repo, "sha": commit_of(directory), "siblings": files}).encode()


def described(path: Path, directory: Path) -> dict[str, Any]:
    content = path.read_bytes()
    git_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    value: dict[str, Any] = {"rfilename": str(path.relative_to(directory)), "size": len(content)}
    if len(content) < LARGE_BYTES:
        return {**value, "blobId": git_id}
    sha256 = hashlib.sha256(content).hexdigest()
    # The id of a large file is that of the text which points to it.
    pointer = hashlib.sha1(sha256.encode()).hexdigest()
    return {**value, "blobId": pointer, "lfs": {"sha256": sha256, "size": len(content)}}


def commit_of(directory: Path) -> str:
    """Another one whenever a file is another one."""
    hasher = hashlib.sha1()
    for path in _files(directory):
        hasher.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes())
    return hasher.hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="")
    options = parser.parse_args()
    hub, other = Server(("127.0.0.1", options.port), Handler), Server(("127.0.0.1", 0), Handler)
    ports = [server.server_address[1] for server in (hub, other)]
    Handler.stage = Stage(options.directory.resolve(), options.token, *ports)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    print(*ports, flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
