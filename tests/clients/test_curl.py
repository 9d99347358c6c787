# SPDX-License-Identifier: Apache-2.0
"""curl, as the README has it: what scripts are made of."""

from __future__ import annotations

import json

from tests.system.hosts import BASE_URL, Host, chat_body

from .conftest import MODEL

CHAT = f"{BASE_URL}/v1/chat/completions"


def test_curl_prints_a_stream_to_its_end(warm: Host, key: str) -> None:
    body = json.dumps(chat_body(MODEL, "hello from curl", stream=True))
    bearer = f"Authorization: Bearer {key}"
    printed = warm.run("curl", "-sSfN", CHAT, "-H", bearer, "--json", body).stdout
    events = [line.removeprefix("data: ") for line in printed.splitlines() if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "echo: hello from curl"


def test_curl_fails_on_a_wrong_key_and_says_why(warm: Host) -> None:
    body = json.dumps(chat_body(MODEL))
    bearer = "Authorization: Bearer wrong"
    words = ("curl", "-sS", "--fail-with-body", CHAT, "-H", bearer, "--json", body)
    done = warm.run(*words, check=False)
    assert done.returncode == 22
    assert json.loads(done.stdout)["error"]["code"] == "invalid_api_key"
