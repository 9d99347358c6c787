# SPDX-License-Identifier: Apache-2.0
"""Origins: which pages a browser lets use the gateway, and which pages only look like those."""

from __future__ import annotations

import re

import pytest

from sparkd.core.access import cors
from sparkd.core.model import Settings

DEFAULT = Settings().cors_origins


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost", "http://localhost:3000", "https://localhost:8443"),
        *("http://127.0.0.1:5173", "https://127.0.0.1", "vscode-webview://1a2b3c-4d"),
        *("http://[::1]:3000", "https://[::1]", "app://obsidian.md", "tauri://localhost"),
        *("http://tauri.localhost", "https://tauri.localhost", "capacitor://localhost"),
        *("ionic://localhost", "capacitor-electron://-"),
    ],
)
def test_pages_of_this_machine_are_allowed_by_default(origin: str) -> None:
    assert cors.is_allowed(DEFAULT, origin)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "",
            "null",
            "http://localhost.evil.example",
            "http://127x0y0z1",
            "http://127.0.0.1.nip.io",
        ),
        *(
            "http://localhost:3000/",
            "http://localhost:",
            "http://localhost:123456",
            "ftp://localhost",
        ),
        *(
            "http://localhost@evil.example",
            "http://evil.example",
            "vscode-webview://",
            "http://[::2]",
            "file://",
            "app://obsidian.md.evil.example",
            "app://x",
            "http://tauri.localhost.evil.example",
            "chrome-extension://abc",
            "moz-extension://abc",
        ),
        *("http://localhost:3000\n", "xhttp://localhost", "HTTP://LOCALHOST"),
    ],
)
def test_what_only_looks_like_it_is_not(origin: str) -> None:
    assert not cors.is_allowed(DEFAULT, origin)


def test_origin_is_allowed_with_its_port_any_port_or_altogether() -> None:
    assert cors.is_allowed(("https://chat.example",), "https://chat.example")
    assert not cors.is_allowed(("https://chat.example",), "https://chat.example:8443")
    assert cors.is_allowed(("https://Chat.example:8443",), "https://chat.example:8443")
    assert cors.is_allowed(("*",), "https://anything.example")
    assert not cors.is_allowed((), "http://localhost")
    assert cors.is_allowed(("http://[::1]:*",), "http://[::1]:3000")


def test_origin_of_files_and_of_subdomains_can_be_configured() -> None:
    for pattern in ("null", "file://", "https://*.example", "chrome-extension://*"):
        assert re.fullmatch(cors.ORIGIN, pattern)
    assert cors.is_allowed(("null",), "null")
    assert not cors.is_allowed(("null",), "nullx")
    assert cors.is_allowed(("file://",), "file://")
    below = ("https://*.example:*",)
    assert cors.is_allowed(below, "https://a.example")
    assert cors.is_allowed(below, "https://a.b-c.example:8443")
    for other in (
        "https://example",
        "https://.example",
        "https://evil/.example",
        "http://a.example",
    ):
        assert not cors.is_allowed(below, other)
    assert not cors.is_allowed(below, "https://a.example.evil")


@pytest.mark.parametrize(
    "pattern",
    [
        "localhost",
        "http://",
        "http://a/",
        "http://a/b",
        "http://*.",
        "http://a.*",
        "http://a:b",
        "Null",
        "file:///",
    ],
)
def test_what_is_no_origin_may_not_be_configured(pattern: str) -> None:
    assert not re.fullmatch(cors.ORIGIN, pattern)
    assert all(re.fullmatch(cors.ORIGIN, one) for one in DEFAULT)


def test_headers_that_a_client_library_wants_to_send_are_allowed_and_nonsense_is_not() -> None:
    wanted = "authorization,content-type,x-stainless-lang, X-Stainless-OS"
    allowed = cors.preflight_headers("http://localhost", "OPTIONS, POST", wanted)
    assert allowed["access-control-allow-headers"] == wanted
    assert allowed["access-control-allow-methods"] == "OPTIONS, POST"
    for odd in ("a\r\nb", "a b", "x" * 65, ",", None):
        headers = cors.preflight_headers("http://localhost", "POST", odd)
        assert "access-control-allow-headers" not in headers


def test_nothing_ever_asks_a_browser_for_its_cookies() -> None:
    for headers in (
        cors.answer_headers("http://localhost"),
        cors.preflight_headers("http://localhost", "POST", "authorization"),
    ):
        assert "access-control-allow-credentials" not in headers
        assert headers["access-control-allow-origin"] == "http://localhost"
