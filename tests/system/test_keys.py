# SPDX-License-Identifier: Apache-2.0
"""API keys on a real host: each permits only its scope, and a change takes effect at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from .hosts import SETTINGS, Host, answer_of, chat_body, client, held_stream

MODEL = "fake-b"
OTHER = "fake-c"
CHAT = "/v1/chat/completions"
KEYS = "/etc/sparkd/keys.json"


@pytest.fixture
def served(trixie: Host) -> Iterator[Host]:
    """A host on which `MODEL` runs, whose gateway is a fresh one and knows only the first key."""
    trixie.run("systemctl", "start", "sparkd.socket")
    trixie.configure(SETTINGS)
    trixie.run("systemctl", "stop", "sparkd.service")
    trixie.run("rm", "-f", KEYS)
    answer_of(trixie.chat(MODEL))
    yield trixie
    trixie.run("rm", "-f", KEYS)


def add(host: Host, name: str, *options: str) -> str:
    return host.run("sparkctl", "key", "add", name, *options).stdout.splitlines()[-1]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def ask(host: Host, key: str, model: str = MODEL) -> httpx.Response:
    return host.request("POST", CHAT, key=key, json=chat_body(model))


def test_added_key_counts_at_once_and_a_revoked_one_no_longer(served: Host) -> None:
    daemon = served.sh("systemctl show --value --property=MainPID sparkd")
    secret = add(served, "laptop")
    assert answer_of(ask(served, secret)) == "echo: hello"
    stat = served.run("stat", "-c", "%a %U:%G", KEYS).stdout
    assert stat.strip() == "640 root:sparkd"
    stream = held_stream(served, MODEL)
    served.run("sparkctl", "key", "revoke", "laptop")
    served.wait_until(lambda: ask(served, secret).status_code != 200, "the change is seen")
    assert error_of(ask(served, secret), 401)["code"] == "invalid_api_key"
    stream.go_on()
    stream.wait()
    assert stream.whole
    assert served.sh("systemctl show --value --property=MainPID sparkd") == daemon


def test_scope_decides_who_reads_asks_and_changes(served: Host) -> None:
    asks, rules = add(served, "asks"), add(served, "rules", "--scope", "admin")
    for key in (asks, rules):
        assert served.request("GET", "/status", key=key).status_code == 200
        assert served.request("GET", "/debug/state", key=key).status_code == 200
        assert served.request("POST", f"/check/{MODEL}", key=key).json()["status"] == "ready"
    for path in ("/models/{}/load", "/models/{}/unload", "/ensure/{}", "/touch/{}"):
        error = error_of(served.request("POST", path.format(MODEL), key=asks), 403)
        assert (error["code"], error["type"]) == ("scope_missing", "permission_error")
        assert "'asks' lacks the scope admin" in error["message"]
    assert served.request("POST", f"/touch/{MODEL}", key=rules).json()["ok"] is True
    assert served.request("POST", f"/models/{MODEL}/load", key=rules).status_code == 200
    for method, path in (("GET", "/v1/models"), ("GET", f"/v1/models/{MODEL}"), ("POST", CHAT)):
        response = served.request(method, path, key=rules)
        assert "'rules' lacks the scope inference" in error_of(response, 403)["message"]


def test_key_of_some_models_sees_and_uses_only_those(served: Host) -> None:
    key = add(served, "limited", "--model", "fake-b*")
    listed = served.request("GET", "/v1/models", key=key).json()["data"]
    assert [model["id"] for model in listed] == [MODEL]
    assert answer_of(ask(served, key)) == "echo: hello"
    cursor = served.cursor()
    for response in (
        ask(served, key, OTHER),
        served.request("POST", f"/v1/{OTHER}/chat/completions", key=key, json=chat_body(MODEL)),
        served.request("GET", f"/v1/models/{OTHER}", key=key),
    ):
        assert error_of(response, 403)["code"] == "model_forbidden"
    assert served.journal("SPARKD_EVENT=model-starting", since=cursor) == []
    status = served.request("GET", "/status", key=key).json()
    assert [model["id"] for model in status["models"]] == [MODEL]
    assert [used["name"] for used in status["keys"]] == ["limited"]


def test_key_of_some_models_is_told_the_name_of_no_other(served: Host) -> None:
    key = add(served, "limited", "--model", MODEL)
    assert answer_of(served.chat(OTHER)) == "echo: hello"
    stream = held_stream(served, OTHER)
    served.configure(f"{SETTINGS}busy: reject\n")
    refused = ask(served, key)
    assert refused.status_code == 429
    assert refused.json()["error"]["currentModel"]["name"] == "another model"
    told = [refused.text + str(refused.headers)]
    for method, path in [
        *(("GET", path) for path in ("/v1/models", "/status", "/debug/state", "/debug/gpu-stats")),
        *(("GET", path) for path in ("/metrics", "/doctor", f"/logs/{MODEL}", "/nowhere")),
        *(("POST", path) for path in (f"/check/{MODEL}", f"/models/{MODEL}/load")),
    ]:
        response = served.request(method, path, key=key)
        told.append(response.text + str(response.headers))
    told.append("".join(served.loop.run(events_until(key, "model-stopped"))))
    assert f"model {MODEL} was stopped to make room for another model" in told[-1]
    assert [text for text in told if OTHER in text] == []
    stream.go_on()
    stream.wait()


async def events_until(key: str, last: str) -> list[str]:
    """What a listener is told of the last minute, up to the event of that name."""
    told: list[str] = []
    async with client(key) as http, http.stream("GET", "/events?last=60") as response:
        async for line in response.aiter_lines():
            told.append(line)
            if line.startswith("data: ") and f'"event": "{last}"' in line:
                break
    return told


def test_key_has_no_more_open_than_it_may(served: Host) -> None:
    key = add(served, "narrow", "--concurrent", "1")
    stream = held_stream(served, MODEL, key=key)
    refused = ask(served, key)
    assert error_of(refused, 429)["code"] == "too_many_open"
    assert refused.headers["retry-after"] == "1"
    assert answer_of(served.chat(MODEL)) == "echo: hello"
    stream.leave()
    served.wait_until(lambda: ask(served, key).status_code == 200, "there is room again")


def test_key_asks_no_more_in_a_minute_than_it_may_and_is_told_when_to_come_again(
    served: Host,
) -> None:
    key = add(served, "slow", "--per-minute", "2")
    for _ in range(2):
        assert answer_of(ask(served, key)) == "echo: hello"
    refused = ask(served, key)
    error = error_of(refused, 429)
    assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
    assert 30 <= int(refused.headers["retry-after"]) <= 60
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    other = served.request("POST", CHAT, key=None, headers=headers, json=chat_body(MODEL))
    assert (other.status_code, other.json()["error"]["type"]) == (429, "rate_limit_error")
    served.wait_for_requests()
    used = {one["name"]: one for one in served.request("GET", "/status").json()["keys"]}
    slow = used["slow"]
    assert (slow["requests"], slow["refused"], slow["open"]) == (2, 2, 0)
    assert slow["output_tokens"] == 4, "twice: echo: hello"
    assert slow["input_tokens"] > 0


def test_expired_key_is_refused_by_name(served: Host) -> None:
    key = add(served, "past", "--expires", "2999-01-01")
    assert ask(served, key).status_code == 200
    served.sh(f"sed -i s/2999-01-01/2020-01-01/ {KEYS}")
    # The files are glanced at ten times a second, and commands here may be quicker than that.
    served.wait_until(lambda: ask(served, key).status_code != 200, "the change is seen")
    error = error_of(ask(served, key), 401)
    assert error["code"] == "expired_api_key"
    assert "'past' has expired, on 2020-01-01" in error["message"]


def test_journal_has_the_name_of_the_key_with_each_request(served: Host) -> None:
    key, cursor = add(served, "named"), served.cursor()
    ask(served, key)
    ask(served, "")
    served.wait_for_requests()
    entries = served.journal("SPARKD_EVENT=request", since=cursor)
    assert [entry["SPARKD_KEY_NAME"] for entry in entries] == ["named", "api-key"]


def test_address_that_guesses_is_stopped_and_keys_in_use_there_go_on(served: Host) -> None:
    unused, cursor = add(served, "unused"), served.cursor()
    for _ in range(20):
        assert ask(served, "sk-guess-planted").status_code == 401
    refused = ask(served, "sk-guess-planted")
    assert error_of(refused, 429)["code"] == "too_many_wrong_keys"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert answer_of(ask(served, unused)) == "echo: hello"
    assert answer_of(served.chat(MODEL)) == "echo: hello"
    (entry,) = served.journal("SPARKD_EVENT=wrong-keys", since=cursor)
    assert (entry["PRIORITY"], entry["SPARKD_ADDRESS"]) == ("4", "127.0.0.1")
    assert "planted" not in json.dumps(served.journal(since=cursor))


@contextmanager
def credential(host: Host, name: str, text: str) -> Iterator[None]:
    """sparkd.service with a systemd credential, for a while."""
    drop_in = "/run/systemd/system/sparkd.service.d/credential.conf"
    host.run("mkdir", "-p", drop_in.rpartition("/")[0])
    with host.file(f"/root/{name}", text):
        host.run("tee", drop_in, input=f"[Service]\nLoadCredential={name}:/root/{name}\n")
        host.sh("systemctl daemon-reload; systemctl stop sparkd.service")
        try:
            yield
        finally:
            host.sh(f"rm {drop_in}; systemctl daemon-reload; systemctl stop sparkd.service")


def test_whole_key_file_may_come_as_a_credential(served: Host) -> None:
    secret = add(served, "of-credential")
    text = served.run("cat", KEYS).stdout
    served.run("rm", KEYS)
    with credential(served, "keys.json", text):
        assert ask(served, secret).status_code == 200
        added = served.run("sparkctl", "key", "add", "of-file")
        assert "credential /run/credentials/sparkd.service/keys.json" in added.stderr
        assert ask(served, added.stdout.splitlines()[-1]).status_code == 401
    assert ask(served, secret).status_code == 401


def test_broken_key_file_locks_nobody_out_who_has_the_first_key(served: Host) -> None:
    cursor = served.cursor()
    with served.file(KEYS, '{"keys": ['):
        served.sh(f"chmod 0640 {KEYS}; chgrp sparkd {KEYS}")
        assert answer_of(served.chat(MODEL)) == "echo: hello"
        error = error_of(ask(served, "sk-other"), 503)
        assert (error["code"], error["hint"]) == ("misconfigured", "sudo sparkctl key list")
        assert len(served.journal("-t", "sparkd", "-p", "err", since=cursor)) >= 1
