# SPDX-License-Identifier: Apache-2.0
"""The HTTP API on a real host: what passes untouched, what is refused how, and what ends."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from nspawn_host.guest import Guest

from .hosts import SETTINGS, Host, Stream, answer_of, chat_body, client

MODEL = "fake-b"
CHAT = "/v1/chat/completions"
MIB = 1 << 20
SETTINGS_FILE = "/etc/sparkd/sparkd.yaml"
LOCAL_CATALOG = "/etc/sparkd/models.d/local.yaml"


@pytest.fixture
def served(trixie: Host) -> Host:
    """A host on which `MODEL` runs, with the engine's counters at zero."""
    trixie.run("systemctl", "start", "sparkd.socket")
    trixie.configure(SETTINGS)
    answer_of(trixie.chat(MODEL))
    trixie.wait_until(lambda: state(trixie)["running"] == 0, "who left the test before is gone")
    engine(trixie, "/fake/reset")
    return trixie


def engine(host: Host, path: str, model: str = MODEL, **request: Any) -> httpx.Response:
    """Ask the engine itself, past the gateway."""
    root = f"/proc/{Guest(host.name).leader_pid()}/root"
    socket = f"{root}/run/sparkd/models/{model}/api.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=60) as direct:
        return direct.request("POST" if request else "GET", f"http://model{path}", **request)


def state(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = engine(host, "/fake/state").json()
    return found


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must have this status and OpenAI's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert error["message"]
    assert error["type"]
    return error


@contextmanager
def nothing_starts(host: Host) -> Iterator[None]:
    cursor = host.cursor()
    yield
    assert host.journal("SPARKD_EVENT=model-starting", since=cursor) == []
    assert host.containers() == []


@contextmanager
def asking(host: Host, model: str, **fields: Any) -> Iterator[None]:
    """Somebody asks, and leaves at the end of the block without an answer."""
    key = host.key

    async def ask() -> None:
        async with client(key, timeout_s=120) as http:
            await http.post(CHAT, json=chat_body(model, **fields))

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(ask())

    async def leave(asks: asyncio.Task[None]) -> None:
        assert not asks.done(), "there was an answer"
        asks.cancel()

    asks = host.loop.run(begin())
    yield
    host.loop.run(leave(asks))


# Keys


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_needs_no_key_and_wakes_nothing(host: Host, method: str) -> None:
    with nothing_starts(host):
        response = host.request(method, "/healthz", key=None)
    assert response.status_code == 200
    assert response.text == ("ok\n" if method == "GET" else "")


@pytest.mark.parametrize("key", [None, "sk-wrong", "x" * 4000], ids=["none", "wrong", "long"])
def test_wrong_key_is_refused_before_anything_else_is_looked_at(
    host: Host, key: str | None
) -> None:
    with nothing_starts(host):
        for path, body in [
            (CHAT, chat_body(MODEL)),
            (CHAT, chat_body("no-such-model")),
            (f"/v1/{MODEL}/chat/completions", {}),
            ("/v1/no-such-path", {}),
        ]:
            error = error_of(host.request("POST", path, key=key, json=body), 401)
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert "sparkctl key show" in error["hint"]
        error_of(host.request("POST", CHAT, key=key, content=b"{not json"), 401)
        error_of(host.request("GET", "/v1/models", key=key), 401)
        error_of(host.request("GET", f"/v1/models/{MODEL}", key=key), 401)


def test_key_is_taken_from_the_header_of_either_api(served: Host) -> None:
    headers = {"x-api-key": served.key}
    response = served.request("POST", CHAT, key=None, headers=headers, json=chat_body(MODEL))
    assert answer_of(response) == "echo: hello"


def test_client_of_the_other_api_gets_errors_in_its_own_form(host: Host) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    response = host.request("POST", CHAT, key="wrong", headers=headers, json={})
    assert response.status_code == 401
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "authentication_error"


# Bad input


@pytest.mark.parametrize("content", [b"", b"{", b"nope", b'{"model": "fake-b"', b"\xff\xfe\x00"])
def test_body_that_is_not_json_is_refused(host: Host, content: bytes) -> None:
    with nothing_starts(host):
        error = error_of(host.request("POST", CHAT, content=content), 400)
    assert error["code"] == "invalid_json"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"model": 7}, {"model": []}])
def test_body_without_a_model_is_refused(host: Host, body: dict[str, Any]) -> None:
    with nothing_starts(host):
        error = error_of(host.request("POST", CHAT, json=body), 400)
    assert (error["code"], error["param"]) == ("model_missing", "model")


@pytest.mark.parametrize(
    "model",
    ["constructor", "__proto__", "toString", "../../etc/passwd", "FAKE-BB", "x" * 5000, "ä"],
)
def test_unknown_model_is_not_found_whatever_its_name(host: Host, model: str) -> None:
    with nothing_starts(host):
        error = error_of(host.chat(model), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert repr(model[:200]) in error["message"]
        quoted = httpx.URL("http://x").copy_with(path=f"/v1/{model}/completions").raw_path.decode()
        if ".." not in model:
            by_path = error_of(host.request("POST", quoted, json={}), 404)
            assert by_path["code"] == "model_not_found"


def test_model_that_lacks_a_dialect_says_what_it_does(host: Host) -> None:
    with nothing_starts(host):
        body = {"model": "fake-crash", "input": "x"}
        error = error_of(host.request("POST", "/v1/embeddings", json=body), 400)
    assert error["code"] == "dialect_unsupported"
    assert error["hint"] == "it does chat"


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/sleep", "/sleep", "/v1/fake-b/collective_rpc", "/x"]
)
def test_only_listed_paths_exist(host: Host, path: str) -> None:
    with nothing_starts(host):
        errors = [error_of(host.request("POST", path, json=chat_body(MODEL)), 404)]
        errors.append(error_of(host.request("GET", path), 404))
    assert [error["code"] for error in errors] == ["unknown_path"] * 2


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "OPTIONS, POST"),
        ("DELETE", CHAT, "OPTIONS, POST"),
        ("PUT", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
def test_wrong_method_is_refused_with_the_right_ones(
    host: Host, method: str, path: str, allowed: str
) -> None:
    response = host.request(method, path)
    error = error_of(response, 405)
    assert error["code"] == "bad_request"
    assert error["message"] == f"{method} is not for {path!r} (it takes {allowed})"
    assert response.headers["allow"] == allowed


def test_what_is_not_http_gets_a_clear_end(host: Host) -> None:
    async def speak(words: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", 8009)
        writer.write(words)
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        return answer

    assert host.loop.run(speak(b"NONSENSE\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    answer_ok = host.request("GET", "/healthz", key=None)
    assert answer_ok.status_code == 200


UPLOADS = {
    "curl": "",
    "curl without asking first": "-H Expect:",
    "curl in chunks": "-H Transfer-Encoding:chunked",
    "curl in chunks without asking first": "-H Transfer-Encoding:chunked -H Expect:",
}


@pytest.mark.parametrize("how", UPLOADS)
def test_body_over_the_limit_is_refused_readably(host: Host, how: str) -> None:
    with nothing_starts(host):
        out = host.sh(
            f"head -c {65 * MIB} /dev/zero | curl -sS -w '\\n%{{http_code}}' {UPLOADS[how]} "
            f"-H 'Authorization: Bearer {host.key}' --data-binary @- http://127.0.0.1:8009{CHAT}"
        )
    body, _, status = out.rpartition("\n")
    assert status == "413"
    error = json.loads(body)["error"]
    assert error["code"] == "body_too_large"
    assert str(64 * MIB) in error["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_client_that_sends_all_before_it_reads_gets_to_read_the_refusal(
    host: Host, chunked: bool
) -> None:
    async def upload() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", 8009)
        kind = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {65 * MIB}"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {host.key}\r\n{kind}"
        writer.write(f"{head}\r\n\r\n".encode())
        for _ in range(65):
            part = b"x" * MIB
            writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(60):
            answer = await reader.readuntil(b"}}")
        writer.close()
        return answer

    answer = host.loop.run(upload())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_body_of_just_the_limit_passes(served: Host) -> None:
    served.configure(f"{SETTINGS}body_limit: 1MiB\n")
    frame = json.dumps(chat_body(MODEL, ""))
    for size, status in [(MIB, 200), (MIB + 1, 413)]:
        content = frame.replace('"content": ""', f'"content": "{"x" * (size - len(frame))}"')
        assert len(content) == size
        assert served.request("POST", CHAT, content=content).status_code == status


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [({}, "", 400), (chat_body("nobody"), "", 404), (chat_body(MODEL, "x" * MIB), "wrong", 401)],
)
def test_refused_request_does_not_spoil_the_next_on_its_connection(
    served: Host, body: dict[str, Any], key: str, status: int
) -> None:
    right = served.key

    async def ask_twice() -> tuple[int, int]:
        async with client(None) as http:
            wrong = {"authorization": f"Bearer {key or right}"}
            first = await http.post(CHAT, json=body, headers=wrong)
            good = {"authorization": f"Bearer {right}"}
            second = await http.post(CHAT, json=chat_body(MODEL), headers=good)
            return first.status_code, second.status_code

    assert served.loop.run(ask_twice()) == (status, 200)


# Configuration

FIVE_MISTAKES = """\
idle_exit: soon
drain_timeot: 30s
body_limit: 64
load_timeout: [1m]
stop_grace: 99h
"""


def configuration_entries(host: Host, since: str) -> list[str]:
    entries = host.journal("-t", "sparkd", "-p", "err", since=since)
    messages = [str(entry["MESSAGE"]) for entry in entries]
    return [message for message in messages if message.startswith("configuration: ")]


def test_five_mistakes_are_all_reported_and_their_end_is_the_end_of_it(served: Host) -> None:
    cursor = served.cursor()
    with nothing_new_starts(served), served.file(SETTINGS_FILE, FIVE_MISTAKES):
        served.run("systemctl", "restart", "sparkd.service")
        error = error_of(served.chat(MODEL), 503)
        assert error["code"] == "misconfigured"
        assert "5 problem" in error["message"]
        assert f"{SETTINGS_FILE}:1: idle_exit: " in error["message"]
        assert "sparkctl check" in error["hint"]
        assert error_of(served.request("GET", "/v1/models"), 503)["code"] == "misconfigured"
        assert served.request("GET", "/healthz", key=None).status_code == 200
        reported = configuration_entries(served, cursor)
        for line, key in enumerate(FIVE_MISTAKES.splitlines(), start=1):
            where = f"configuration: {SETTINGS_FILE}:{line}: {key.partition(':')[0]}: "
            assert len([message for message in reported if message.startswith(where)]) == 1
        assert len(reported) == 5
    served.run("systemctl", "reload", "sparkd.service")
    # It is told to read them anew, which it does when it comes to it.
    served.wait_until(lambda: served.chat(MODEL).status_code == 200, "it took the new settings")


@contextmanager
def nothing_new_starts(host: Host) -> Iterator[None]:
    cursor = host.cursor()
    yield
    assert host.journal("SPARKD_EVENT=model-starting", since=cursor) == []


def test_reload_of_a_wrong_configuration_is_reported_and_changes_nothing(served: Host) -> None:
    cursor = served.cursor()
    with served.file(SETTINGS_FILE, FIVE_MISTAKES):
        served.run("systemctl", "reload", "sparkd.service")
        served.wait_until(
            lambda: len(configuration_entries(served, cursor)) == len(FIVE_MISTAKES.splitlines()),
            "each mistake is reported",
        )
        assert answer_of(served.chat(MODEL)) == "echo: hello"


CATALOG_WITH_ONE_MISTAKE = """\
defaults: {image: localhost/sparkd-fake-vllm:latest, weights: none, shm_size: 64MiB}
models:
  local-good: {idle_timeout: 10m, lifecycle: utility}
  local-bad: {idle_timeout: ten minutes}
"""


def test_wrong_entry_of_the_catalog_stops_only_its_own_model(served: Host) -> None:
    with served.file(LOCAL_CATALOG, CATALOG_WITH_ONE_MISTAKE):
        served.run("systemctl", "restart", "sparkd.service")
        assert answer_of(served.chat(MODEL)) == "echo: hello"
        assert answer_of(served.chat("local-good")) == "echo: hello"
        error = error_of(served.chat("local-bad"), 503)
        assert error["code"] == "model_misconfigured"
        assert f"{LOCAL_CATALOG}:4: models.local-bad.idle_timeout: " in error["message"]
        listed = {model["id"] for model in served.request("GET", "/v1/models").json()["data"]}
        assert {MODEL, "local-good"} <= listed
        assert "local-bad" not in listed
        served.stop_models()
    served.run("systemctl", "restart", "sparkd.service")
    assert error_of(served.chat("local-bad"), 404)["code"] == "model_not_found"


# Models


def test_list_of_models_is_that_of_sparkctl_and_wakes_nothing(host: Host) -> None:
    with nothing_starts(host):
        listed = host.request("GET", "/v1/models?all=1").json()
        known = json.loads(host.run("sparkctl", "models", "--json").stdout)
        assert listed["object"] == "list"
        ids = [model["id"] for model in listed["data"]]
        assert sorted(ids) == sorted(model["id"] for model in known)
        one = next(model for model in listed["data"] if model["id"] == MODEL)
        assert (one["state"], one["status"], one["aliases"]) == ("stopped", "experimental", [])
        assert one["capabilities"]["chat"] is one["capabilities"]["embeddings"] is True
        assert host.request("GET", "/v1/models/little").json()["id"] == "fake-util"
        assert (one["object"], one["owned_by"], one["max_model_len"]) == ("model", "sparkd", 8192)
        assert {"chat", "completions", "embeddings"} <= set(one["dialects"])
        assert host.request("GET", f"/v1/models/{MODEL}").json() == one
        error = error_of(host.request("GET", "/v1/models/constructor"), 404)
        assert error["code"] == "model_not_found"


def test_listed_state_is_what_the_models_do(host: Host) -> None:
    answer_of(host.chat(MODEL))
    listed = host.request("GET", "/v1/models").json()["data"]
    states = {model["id"]: model["state"] for model in listed}
    assert states.pop(MODEL) == "ready"
    assert set(states.values()) == {"stopped"}


def test_model_answers_to_its_aliases_and_to_what_the_settings_call_it(host: Host) -> None:
    host.configure(f"{SETTINGS}default_model: little\nsmall_model: fake-util\n")
    for name in ("little", "org/little", "auto", "default", "small", "fake-util"):
        response = host.chat(name)
        assert answer_of(response) == "echo: hello"
        assert response.headers["x-sparkd-model"] == response.json()["model"] == "fake-util"
    by_path = host.request("POST", "/v1/org/little/chat/completions", json=chat_body("x"))
    assert answer_of(by_path) == "echo: hello"
    speech = bytes(range(256)) * 40
    for named in ({"model": "fake-util"}, {"model": "little"}, {}):
        form: dict[str, Any] = {"data": named, "files": {"file": ("speech.wav", speech)}}
        path = "/v1/audio/transcriptions" if named else "/v1/little/audio/translations"
        content = httpx.Request("POST", "http://x", **form).read()
        kind = f"multipart/form-data; boundary={content[2:34].decode()}"
        heard = host.request("POST", path, content=content, headers={"content-type": kind})
        assert heard.json() == {"text": f"heard {len(speech)} bytes"}, heard.text
        last = host.engine_state("fake-util")["last"]
        assert last["target"] == path.replace("/little", "")
        sent = base64.b64decode(last["body_base64"])
        assert (sent == content) is (named.get("model") == "fake-util")
        assert b'name="model"\r\n\r\nfake-util\r\n' in sent
    cursor = host.cursor()
    wrong = host.request("POST", "/v1/audio/transcriptions", json=chat_body("little"))
    assert error_of(wrong, 400)["code"] == "invalid_form"
    twice = [("file", ("x", b"x")), ("model", (None, b"little")), ("model", (None, b"fake-b"))]
    wrong = host.request("POST", "/v1/audio/transcriptions", files=twice)
    assert error_of(wrong, 400)["code"] == "invalid_form"
    assert host.journal("SPARKD_EVENT=model-starting", since=cursor) == []
    stopped = host.run("sparkctl", "stop", "org/little")
    assert stopped.stdout == "fake-util is stopped\n"


# What passes


BODIES = {
    "chat/completions": {"messages": [{"role": "user", "content": "one two"}]},
    "completions": {"prompt": "one two"},
    "embeddings": {"input": "one two"},
}


def said(operation: str, answer: dict[str, Any]) -> object:
    if operation == "embeddings":
        return answer["data"][0]["embedding"]
    choice = answer["choices"][0]
    return choice["message"]["content"] if operation.startswith("chat") else choice["text"]


@pytest.mark.parametrize("operation", BODIES)
def test_body_or_path_names_the_model_and_the_path_wins(served: Host, operation: str) -> None:
    body = BODIES[operation]
    expected = said(operation, engine(served, f"/v1/{operation}", json=body).json())
    for path, named in [
        (f"/v1/{operation}", {"model": MODEL}),
        (f"/v1/{MODEL}/{operation}", {}),
        (f"/v1/{MODEL}/{operation}", {"model": MODEL}),
        (f"/v1/{MODEL}/{operation}", {"model": "gpt-4o"}),
        (f"/v1/{MODEL.replace('-', '%2D')}/{operation}", {}),
    ]:
        response = served.request("POST", path, json={**named, **body})
        assert response.status_code == 200, response.text
        assert said(operation, response.json()) == expected
        assert response.json()["model"] == MODEL
        assert response.headers["x-sparkd-model"] == MODEL


ODD_BODY = (
    b'\r\n {"model" :"fake-b",\t"messages":[{"role":"user","content":"\\u00e4 \xc3\xa4 \\/"}],'
    b'"temperature":1.50e-1,"seed":12345678901234567890,"x":1,"x":2,"logit_bias":{}} \n'
)


@pytest.mark.parametrize("path", [CHAT, f"/v1/{MODEL}/chat/completions"])
def test_body_reaches_the_engine_byte_for_byte(served: Host, path: str) -> None:
    response = served.request("POST", path, content=ODD_BODY)
    assert response.status_code == 200, response.text
    last = state(served)["last"]
    assert base64.b64decode(last["body_base64"]) == ODD_BODY
    assert last["target"] == CHAT


def test_body_in_chunks_reaches_the_engine_whole(served: Host) -> None:
    parts = [ODD_BODY[i : i + 7] for i in range(0, len(ODD_BODY), 7)]

    async def send() -> int:
        async def chunks() -> AsyncIterator[bytes]:
            for part in parts:
                yield part
                await asyncio.sleep(0.001)

        async with client(served.key) as http:
            return (await http.post(CHAT, content=chunks())).status_code

    assert served.loop.run(send()) == 200
    assert base64.b64decode(state(served)["last"]["body_base64"]) == ODD_BODY


def test_headers_pass_but_those_of_the_connection_and_of_the_gateway(served: Host) -> None:
    headers = {
        "x-odd": "A  b",
        "content-type": "application/json; charset=utf-8",
        "cookie": "secret=1",
        "x-api-key": "secret",
        "x-request-id": "mine-1",
        "te": "trailers",
    }
    served.request("POST", CHAT, json=chat_body(MODEL), headers=headers)
    sent = {name.lower(): value for name, value in state(served)["last"]["headers"]}
    assert sent["x-odd"] == "A  b"
    assert re.fullmatch("[0-9a-f]{32}", sent["x-request-id"])
    assert sent["content-type"] == "application/json; charset=utf-8"
    assert not {"authorization", "x-api-key", "cookie", "te"} & set(sent)
    assert "secret" not in str(sent)


def without_ids(content: bytes) -> bytes:
    return re.sub(rb"chatcmpl-[0-9a-f]{16}", b"chatcmpl-ID", content)


@pytest.mark.parametrize("stream", [False, True])
def test_answer_passes_untouched(served: Host, stream: bool) -> None:
    body = chat_body(MODEL, 'ä " \n\n data: [DONE] ' + "x" * 100_000, stream=stream, max_tokens=300)
    direct = engine(served, CHAT, json=body)
    through = served.request("POST", CHAT, json=body)
    assert direct.status_code == through.status_code == 200
    assert without_ids(through.content) == without_ids(direct.content)
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert through.headers.get("content-length") == direct.headers.get("content-length")
    assert "uvicorn" not in through.headers.get("server", "")


def test_events_of_a_stream_come_one_by_one(served: Host) -> None:
    # The engine says three words and then nothing more: all three must have come by then.
    stream = Stream(served, MODEL, tokens=10, pace_ms=0, stall_after_tokens=3)
    stream.wait_first()
    served.wait_until(lambda: '"content":" w2"' in stream.text, "the third word")
    stream.leave()


@pytest.mark.parametrize("status", [400, 422, 429])
def test_error_of_the_engine_passes_untouched(served: Host, status: int) -> None:
    fake = {"status": status, "headers": {"retry-after": "9", "x-odd": "1"}}
    body = chat_body(MODEL, fake=fake)
    direct = engine(served, CHAT, json=body)
    through = served.request("POST", CHAT, json=body)
    assert (through.status_code, through.content) == (status, direct.content)
    assert through.headers["retry-after"] == "9"
    assert "x-odd" not in through.headers


@pytest.mark.parametrize("status", [500, 503])
def test_failure_of_the_engine_keeps_its_status_message_and_pause(
    served: Host, status: int
) -> None:
    fake = {"status": status, "headers": {"retry-after": "9"}}
    body = chat_body(MODEL, fake=fake)
    said = engine(served, CHAT, json=body).json()["error"]["message"]
    through = served.request("POST", CHAT, json=body)
    error = through.json()["error"]
    assert (through.status_code, error["code"]) == (status, f"upstream_{status}")
    assert said in error["message"]
    assert through.headers["retry-after"] == "9"


def test_every_answer_carries_the_id_of_its_request(served: Host) -> None:
    for path, body, key in [
        (CHAT, chat_body(MODEL), ""),
        (CHAT, chat_body("nobody"), ""),
        (CHAT, {}, ""),
        (CHAT, {}, "wrong"),
        ("/nowhere", {}, ""),
    ]:
        mine = served.request("POST", path, json=body, key=key, headers={"x-request-id": "r-1.a_B"})
        assert mine.headers["x-request-id"] == "r-1.a_B", path
        for odd in ("", "two words", "x" * 65, "a\tb"):
            headers = {"x-request-id": odd}
            other = served.request("POST", path, json=body, key=key, headers=headers)
            assert re.fullmatch("[0-9a-f]{32}", other.headers["x-request-id"]), (path, odd)
    listed = served.request("GET", "/v1/models", headers={"x-request-id": "r-2"})
    assert listed.headers["x-request-id"] == "r-2"


def test_id_of_a_request_finds_it_in_the_journal(served: Host) -> None:
    cursor = served.cursor()
    served.request("POST", CHAT, json=chat_body(MODEL), headers={"x-request-id": "find-me"})
    (entry,) = served.entries(1, "SPARKD_REQUEST_ID=find-me", since=cursor)
    assert (entry["SPARKD_EVENT"], entry["SPARKD_MODEL"], entry["SPARKD_STATUS"]) == (
        *("request", MODEL, "200"),
    )
    assert entry["PRIORITY"] == "6"
    assert int(entry["SPARKD_DURATION_MS"]) < 60_000


def test_many_streams_at_once_get_their_own_answers(served: Host) -> None:
    async def one(http: httpx.AsyncClient, number: int) -> None:
        body = chat_body(MODEL, f"number-{number}", stream=True, fake={"pace_ms": 20})
        response = await http.post(CHAT, json={**body, "max_tokens": 20})
        assert f"number-{number}" in response.text
        assert response.text.endswith("data: [DONE]\n\n")

    async def all_of_them() -> None:
        async with client(served.key) as http, asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(one(http, number))

    served.loop.run(all_of_them())
    assert state(served)["cancelled"] == 0


# What ends


def in_use(host: Host, model: str = MODEL) -> bool:
    return host.locked(f"/run/sparkd/locks/{model}.activity")


def test_client_that_leaves_a_stream_cancels_it_at_the_engine(served: Host) -> None:
    cursor = served.cursor()
    stream = Stream(served, MODEL, tokens=10_000, pace_ms=50)
    stream.wait_first()
    assert in_use(served)
    stream.leave()
    served.wait_until(lambda: state(served)["cancelled"] == 1, "the engine was told")
    served.wait_until(lambda: not in_use(served), "the use has ended")
    (entry,) = served.entries(1, "SPARKD_REASON=client_gone", since=cursor)
    assert entry["SPARKD_EVENT"] == "request"


def test_client_that_leaves_before_the_answer_cancels_it_too(served: Host) -> None:
    with asking(served, MODEL, fake={"first_token_ms": 600_000}):
        served.wait_until(lambda: state(served)["running"] == 1, "the engine has the request")
    served.wait_until(lambda: state(served)["cancelled"] == 1, "the engine was told")
    served.wait_until(lambda: not in_use(served), "the use has ended")


def test_client_that_leaves_takes_the_load_back_where_the_settings_say_so(host: Host) -> None:
    host.configure(SETTINGS + "abandoned_loads: stop\n")
    with host.held_load(MODEL):
        with asking(host, MODEL):
            host.wait_until(lambda: host.containers() != [], "it loads")
        host.wait_until(lambda: host.containers() == [], "the load was taken back")
        host.wait_until(
            lambda: not any(MODEL in unit for unit in host.user_unit_states()),
            "so were its units",
        )


def test_one_of_two_who_wait_for_a_load_may_leave(host: Host) -> None:
    with host.held_load(MODEL):
        stayer = Stream(host, MODEL, tokens=2, pace_ms=0)
        with asking(host, MODEL):
            host.wait_until(lambda: waiting(host) == [(MODEL, True, 2)], "two wait for it")
        host.wait_until(lambda: waiting(host) == [(MODEL, True, 1)], "one has left")
    stayer.wait()
    assert stayer.whole, stayer.text


def waiting(host: Host) -> list[tuple[str, bool, int]]:
    """For which models how many wait, and whether these are being loaded."""
    queue = host.request("GET", "/status").json()["queue"]
    return [(one["model"], one["loading"], one["waiting"]) for one in queue]


@pytest.mark.parametrize("how", ["break_after_tokens", "crash_after_tokens"])
def test_stream_whose_engine_breaks_off_ends_with_an_error_event(served: Host, how: str) -> None:
    stream = Stream(served, MODEL, tokens=50, pace_ms=10, **{how: 5})
    stream.wait(30)
    assert stream.error is None
    assert not stream.whole
    *events, last, end = stream.text.split("\n\n")
    assert end == ""
    assert [event for event in events if '"content":" w4"' in event]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("upstream_lost", "server_error")
    assert "broke off" in error["message"]
    assert answer_of(served.chat(MODEL, "again")) == "echo: again"


def test_answer_of_known_size_that_breaks_off_ends_as_a_broken_connection(served: Host) -> None:
    cursor = served.cursor()
    with pytest.raises(httpx.TransportError):
        served.chat(MODEL, "x" * 5000, fake={"break_after_tokens": 1})
    (entry,) = served.entries(1, "SPARKD_REASON=upstream_lost", since=cursor)
    assert entry["SPARKD_EVENT"] == "request"


def test_engine_that_dies_before_it_answers_is_an_error_with_a_status(served: Host) -> None:
    response = served.chat(MODEL, fake={"crash_after_tokens": 0})
    error = error_of(response, 502)
    assert error["code"] == "upstream_lost"
    assert answer_of(served.chat(MODEL, "again")) == "echo: again"


@pytest.mark.parametrize("kind", ["status_line", "header", "length"])
def test_answer_that_is_not_http_is_an_error_with_a_status(served: Host, kind: str) -> None:
    error = error_of(served.chat(MODEL, fake={"garbage": kind}), 502)
    assert error["code"] == "upstream_lost"
    assert answer_of(served.chat(MODEL, "again")) == "echo: again"


# The other API

MESSAGES = "/v1/messages"


def message(model: str, **fields: Any) -> dict[str, Any]:
    return {**chat_body(model), "max_tokens": 50, **fields}


def test_messages_and_their_tokens_pass_where_the_model_has_them(served: Host) -> None:
    headers = {"x-api-key": served.key, "anthropic-beta": "x-1"}
    body = message(MODEL)
    answer = served.request("POST", f"{MESSAGES}?beta=true", key=None, headers=headers, json=body)
    assert answer.json()["content"] == [{"type": "text", "text": "echo: hello"}]
    last = state(served)["last"]
    assert (last["target"], dict(last["headers"])["anthropic-beta"]) == (MESSAGES, "x-1")
    counted = served.request("POST", f"/v1/{MODEL}/messages/count_tokens", json={**body})
    assert counted.json() == {"input_tokens": 2}


def test_errors_of_messages_are_in_the_form_of_their_library_without_any_header(
    served: Host,
) -> None:
    for body, key, status, kind, words in [
        (message(MODEL), "sk-wrong", 401, "authentication_error", "not one of this server's"),
        (message("nobody"), "", 404, "not_found_error", "there is no model 'nobody'"),
        (message("fake-util"), "", 400, "invalid_request_error", "does not do messages"),
        ({}, "", 400, "invalid_request_error", "must name a model"),
    ]:
        response = served.request("POST", MESSAGES, key=key, json=body)
        said = response.json()
        assert (response.status_code, said["type"], said["error"]["type"]) == (
            *(status, "error", kind),
        )
        assert words in said["error"]["message"]
    broken = message(MODEL, stream=True, fake={"tokens": 9, "break_after_tokens": 3})
    *_, last, end = served.request("POST", MESSAGES, json=broken).text.split("\n\n")
    assert (end, last.splitlines()[0]) == ("", "event: error")
    assert '"type": "api_error"' in last
    served.configure(f"{SETTINGS}busy: reject\n")
    stream = Stream(served, MODEL, tokens=10_000, pace_ms=50)
    stream.wait_first()
    busy = served.request("POST", MESSAGES, json=message("fake-c"))
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 1 <= int(busy.headers["retry-after"]) <= 60
    stream.leave()


# Browsers, and what they ask before they ask

PAGE = {"origin": "http://localhost:3000"}


def test_page_of_this_machine_may_ask_and_read_the_answer(served: Host) -> None:
    wanted = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
    before = served.request("OPTIONS", CHAT, key=None, headers={**PAGE, **asks})
    assert (before.status_code, before.content) == (204, b"")
    assert before.headers["access-control-allow-origin"] == PAGE["origin"]
    assert before.headers["access-control-allow-headers"] == wanted
    assert "POST" in before.headers["access-control-allow-methods"].split(", ")
    assert "Origin" in before.headers["vary"]
    for key, stream, status in [("", False, 200), ("", True, 200), ("wrong", False, 401)]:
        body = chat_body(MODEL, stream=stream)
        response = served.request("POST", CHAT, key=key, headers=PAGE, json=body)
        assert response.status_code == status
        assert response.headers.get_list("access-control-allow-origin") == [PAGE["origin"]]
        assert "retry-after" in response.headers["access-control-expose-headers"]
        assert "Origin" in response.headers["vary"]


def test_page_from_elsewhere_may_not_until_it_is_configured(served: Host) -> None:
    page = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    before = served.request("OPTIONS", CHAT, key=None, headers=page)
    assert "access-control-allow-origin" not in before.headers
    response = served.chat(MODEL)
    assert not [name for name in response.headers if name.startswith("access-control")]
    served.configure(f'{SETTINGS}cors_origins: ["https://chat.example"]\n')
    before = served.request("OPTIONS", CHAT, key=None, headers=page)
    assert before.headers["access-control-allow-origin"] == "https://chat.example"
    before = served.request("OPTIONS", CHAT, key=None, headers={**page, **PAGE})
    assert "access-control-allow-origin" not in before.headers


def test_options_and_wrong_methods_are_told_which_are_right(host: Host) -> None:
    asked = host.request("OPTIONS", "/v1/models", key=None)
    assert (asked.status_code, asked.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    wrong = host.request("DELETE", "/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert host.request("OPTIONS", "/nowhere", key=None).status_code == 404
    for path in ("/v1/models", f"/v1/models/{MODEL}", "/status"):
        head = host.request("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 100
        assert host.request("HEAD", path, key=None).status_code == 401


def test_answer_says_how_long_its_model_was_waited_for(host: Host) -> None:
    first, second = host.chat(MODEL).headers, host.chat(MODEL).headers
    assert 1000 <= int(first["x-sparkd-load-ms"]) < 60_000
    assert 0 <= int(first["x-sparkd-queue-ms"]) < 60_000
    assert (second["x-sparkd-load-ms"], second["x-sparkd-queue-ms"]) == ("0", "0")


def test_compressed_body_is_refused_clearly(served: Host) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    error = error_of(served.request("POST", CHAT, headers=headers, content=b"\x1f\x8b"), 415)
    assert error["code"] == "encoding_unsupported"
    assert (
        answer_of(
            served.request(
                "POST", CHAT, headers={"content-encoding": "identity"}, json=chat_body(MODEL)
            )
        )
        == "echo: hello"
    )


# What is never written down

PROMPT, ANSWER, KEY = "xylophone-prompt", "xylophone-answer", "sk-xylophone-0123456789"


def planted(served: Host) -> list[Callable[[], object]]:
    """Ways to get words of a client into the gateway, the wrong ones above all."""
    text = f"{PROMPT} {ANSWER}"

    return [
        lambda: served.chat(MODEL, text),
        lambda: served.chat(MODEL, text, stream=True),
        lambda: served.chat(MODEL, text, stream=True, fake={"break_after_tokens": 2}),
        lambda: served.chat(MODEL, text, fake={"status": 400}),
        lambda: served.chat(MODEL, text, fake={PROMPT: 1}),
        lambda: served.chat(MODEL, text, fake={"garbage": "header"}),
        lambda: served.chat(MODEL, text, fake={"crash_after_tokens": 0}),
        lambda: served.chat("fake-crash", text),
        lambda: served.chat(PROMPT, text),
        lambda: served.request("POST", CHAT, content=f'{{"messages": "{text}'),
        lambda: served.request("POST", CHAT, json={"model": [text]}),
        lambda: served.request("POST", CHAT, json={PROMPT: text}),
        lambda: served.request("POST", f"/v1/{PROMPT}", json={"prompt": text}),
        lambda: served.request("POST", f"/v1/{MODEL}/completions", json={"prompt": text}),
        lambda: served.request("POST", f"/{PROMPT}?key={KEY}", json={"prompt": text}),
        lambda: served.request("BREW", f"/{PROMPT}", json={"prompt": text}),
        lambda: served.request("POST", CHAT, key=KEY, json=chat_body(MODEL, text)),
        lambda: served.request("POST", CHAT, key=None, headers={"x-api-key": KEY}, json={}),
        lambda: served.request("POST", CHAT, key=None, headers={"authorization": KEY}, json={}),
    ]


def test_no_prompt_answer_or_key_is_ever_in_the_journal(served: Host) -> None:
    cursor, right_key = served.cursor(), served.key
    for ask in planted(served):
        with suppress(httpx.TransportError):
            ask()
    # It was all seen: there is an entry for each of them that was an inference request.
    assert len(served.entries(15, "SPARKD_EVENT=request", since=cursor)) >= 15
    everything = json.dumps(served.journal(since=cursor))
    for word in ("xylophone", right_key, right_key.removeprefix("sk-sparkd-")):
        assert word not in everything
