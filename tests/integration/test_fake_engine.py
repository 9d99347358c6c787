# SPDX-License-Identifier: Apache-2.0
"""What other tests rely on when they ask the fake engine: right, or wrong as it was told."""

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

SERVER = Path(__file__).resolve().parents[1] / "engines" / "fake-vllm" / "server.py"
CHAT = "/v1/chat/completions"
DEADLINE_S = 60.0

pytestmark = pytest.mark.integration


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))


class Engine:
    """One running fake engine and the ways to talk to it."""

    def __init__(self, directory: Path, arguments: tuple[str, ...]) -> None:
        self.socket = directory / "api.sock"
        self.switch_file = directory / "fake.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(SERVER), "serve", "/models/fake-a"),
                *("--served-model-name", "fake-a", "--uds", str(self.socket)),
                *("--switch-file", str(self.switch_file), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, path: str, body: object = None) -> tuple[int, bytes]:
        connection = UnixConnection(self.socket)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str, body: object = None) -> Any:
        status, content = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        status, content = self.ask(path, {**body, "stream": True})
        assert status == 200, content
        lines = [line for line in content.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.json("/fake/state")
        return state

    def health(self) -> int:
        try:
            return self.ask("/health")[0]
        except (ConnectionRefusedError, FileNotFoundError):
            return 0

    def output(self) -> str:
        return self.process.communicate(timeout=DEADLINE_S)[0]


class Start(Protocol):
    def __call__(self, *arguments: str, healthy: bool = True, held: bool = False) -> Engine: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    engines: list[Engine] = []

    def start_engine(*arguments: str, healthy: bool = True, held: bool = False) -> Engine:
        if held:
            (tmp_path / "fake.json").write_text('{"load_hang": true}')
        engine = Engine(tmp_path, ("--fake-load-seconds=0", *arguments))
        engines.append(engine)
        if healthy:
            until(lambda: engine.health() == 200)
        return engine

    yield start_engine
    for engine in engines:
        engine.process.kill()
        engine.process.communicate()


def until(condition: Callable[[], bool]) -> None:
    end_mono_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_mono_s, "it did not come to be so"
        time.sleep(0.02)


def asking(text: str, **more: object) -> dict[str, Any]:
    return {"model": "fake-a", "messages": [{"role": "user", "content": text}], **more}


def streamed_text(events: list[dict[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content", "") for event in events for choice in event["choices"]
    )


def open_stream(engine: Engine, body: dict[str, Any]) -> tuple[UnixConnection, Any]:
    """A stream of which only the head has been read."""
    connection = UnixConnection(engine.socket)
    connection.request("POST", CHAT, json.dumps({**body, "stream": True}))
    return connection, connection.getresponse()


def test_answer_echoes_last_user_message(start: Start) -> None:
    engine = start()
    answer = engine.json(CHAT, asking("the quick brown fox"))
    assert answer["choices"][0]["message"]["content"] == "echo: the quick brown fox"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 5


def test_stream_carries_the_same_words_as_the_whole_answer(start: Start) -> None:
    engine = start()
    body = asking("one two", max_tokens=40, stream_options={"include_usage": True})
    whole = engine.json(CHAT, body)
    events = engine.events(CHAT, body)
    assert streamed_text(events) == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 40


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/completions", {"prompt": "a b"}, lambda a: a["choices"][0]["text"]),
        ("/v1/messages", asking("a b", max_tokens=99), lambda a: a["content"][0]["text"]),
        ("/v1/responses", {"input": "a b"}, lambda a: a["output"][0]["content"][0]["text"]),
    ],
)
def test_every_dialect_echoes(
    start: Start, path: str, body: dict[str, Any], text: Callable[[Any], str]
) -> None:
    assert text(start().json(path, body)) == "echo: a b"


def test_streams_of_other_dialects_carry_a_delta_for_each_token(start: Start) -> None:
    engine = start()
    message = engine.events("/v1/messages", asking("a b", max_tokens=99))
    assert [e["delta"]["text"] for e in message if e["type"] == "content_block_delta"] == [
        "echo:",
        " a",
        " b",
    ]
    assert message[-1]["type"] == "message_stop"
    response = engine.events("/v1/responses", {"input": "a b"})
    assert "".join(e["delta"] for e in response if e["type"].endswith("text.delta")) == "echo: a b"
    assert [e["sequence_number"] for e in response] == list(range(len(response)))
    assert response[-1]["response"]["status"] == "completed"


SUM = 'use add {"a": 1, "b": 2}'
TOOL = {"name": "add", "input_schema": {}}
RESULT = {"type": "tool_result", "tool_use_id": "x", "content": "three"}
OUTPUT = {"type": "function_call_output", "call_id": "x", "output": "three"}
CALLS = {
    CHAT: (
        {"messages": [{"role": "user", "content": SUM}], "tools": [{"function": TOOL}]},
        lambda body: json.loads(
            body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        ),
        {"messages": [{"role": "tool", "tool_call_id": "x", "content": "three"}]},
        lambda body: body["choices"][0]["message"]["content"],
    ),
    "/v1/messages": (
        {"messages": [{"role": "user", "content": SUM}], "tools": [TOOL]},
        lambda body: body["content"][0]["input"],
        {"messages": [{"role": "user", "content": [RESULT]}]},
        lambda body: body["content"][0]["text"],
    ),
    "/v1/responses": (
        {"input": SUM, "tools": [TOOL]},
        lambda body: json.loads(body["output"][0]["arguments"]),
        {"input": [OUTPUT]},
        lambda body: body["output"][0]["content"][0]["text"],
    ),
}


@pytest.mark.parametrize("path", CALLS)
def test_tool_is_called_when_the_user_says_so_and_its_result_is_echoed(
    start: Start, path: str
) -> None:
    asked, called, answered, echo = CALLS[path]
    engine = start()
    assert called(engine.json(path, asked)) == {"a": 1, "b": 2}
    assert echo(engine.json(path, {**asked, **answered})) == "echo: three"
    pieces = "".join(json.dumps(event) for event in engine.events(path, asked))
    assert "add" in pieces
    assert "three" not in pieces


def test_tool_that_was_not_offered_is_not_called(start: Start) -> None:
    asked = {"messages": [{"role": "user", "content": SUM}]}
    body = start().json(CHAT, asked)
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": f"echo: {SUM}",
        "tool_calls": [],
    }


def test_limit_only_limits_if_answers_are_not_to_be_filled_up(start: Start) -> None:
    asked = {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 2}
    engine = start("--fake-fill=false")
    assert engine.json(CHAT, asked)["choices"][0]["message"]["content"] == "echo: a"
    whole = engine.json(CHAT, {**asked, "max_tokens": 9})["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("echo: a b", "stop")


def test_embeddings_depend_on_the_text_alone(start: Start) -> None:
    engine = start()
    one = engine.json("/v1/embeddings", {"input": ["x", "y"]})["data"]
    again = engine.json("/v1/embeddings", {"input": "y"})["data"]
    assert one[1]["embedding"] == again[0]["embedding"] != one[0]["embedding"]


def test_last_request_is_kept_byte_for_byte(start: Start) -> None:
    engine = start()
    body = b'{ "model":"fake-a",\t"messages":[{"role":"user","content":"\xc3\xa9 \\u00e9"}] }\n'
    connection = UnixConnection(engine.socket)
    connection.request("POST", CHAT, body, {"X-Odd": "Yes"})
    assert connection.getresponse().status == 200
    connection.close()
    last = engine.state()["last"]
    assert base64.b64decode(last["body_base64"]) == body
    assert ["X-Odd", "Yes"] in last["headers"]


def test_chunked_request_body_is_put_together(start: Start) -> None:
    engine = start()
    parts = [b'{"messages":[{"role":"user",', b'"content":"in parts"}]}']
    connection = UnixConnection(engine.socket)
    connection.request("POST", CHAT, iter(parts), encode_chunked=True)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["choices"][0]["message"]["content"] == "echo: in parts"
    assert base64.b64decode(engine.state()["last"]["body_base64"]) == b"".join(parts)


def test_client_that_leaves_is_counted_as_cancelled(start: Start) -> None:
    engine = start()
    connection, answer = open_stream(engine, asking("x", fake={"pace_ms": 50, "tokens": 1000}))
    assert answer.readline().startswith(b"data: ")
    assert engine.state()["running"] == 1
    answer.close()
    connection.close()
    until(lambda: engine.state()["cancelled"] == 1)
    state = engine.state()
    assert (state["running"], state["completed"]) == (0, 0)


def test_client_that_leaves_before_a_whole_answer_is_counted_as_cancelled(start: Start) -> None:
    engine = start()
    connection = UnixConnection(engine.socket)
    connection.request("POST", CHAT, json.dumps(asking("x", fake={"first_token_ms": 60_000})))
    until(lambda: engine.state()["running"] == 1)
    connection.close()
    until(lambda: engine.state()["cancelled"] == 1)


def test_tokens_keep_their_pace(start: Start) -> None:
    engine = start()
    began_mono_s = time.monotonic()
    engine.events(CHAT, asking("x", fake={"pace_ms": 20, "tokens": 26}))
    assert time.monotonic() - began_mono_s >= 25 * 0.02


def test_crash_while_streaming_breaks_the_connection_and_ends_the_process(start: Start) -> None:
    engine = start()
    fake = {"crash_after_tokens": 3, "exit_code": 134, "tokens": 9, "pace_ms": 5}
    connection, answer = open_stream(engine, asking("x", fake=fake))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    connection.close()
    assert engine.process.wait(DEADLINE_S) == 134


def test_broken_stream_ends_without_its_end_and_the_engine_lives(start: Start) -> None:
    engine = start()
    connection, answer = open_stream(engine, asking("x", fake={"break_after_tokens": 1}))
    with pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    connection.close()
    assert broken.value.partial.count(b"data: ") in (0, 2)
    assert engine.health() == 200


def test_broken_whole_answer_is_shorter_than_promised(start: Start) -> None:
    engine = start()
    with pytest.raises(http.client.IncompleteRead):
        engine.ask(CHAT, asking("x", fake={"break_after_tokens": 1}))


def test_stalled_stream_sends_nothing_more_and_stays_open(start: Start) -> None:
    engine = start()
    connection, answer = open_stream(engine, asking("x", fake={"stall_after_tokens": 1}))
    head = b"".join(answer.readline() for _ in range(4))
    assert head.count(b"data: ") == 2
    connection.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        answer.readline()
    assert engine.state()["running"] == 1
    answer.close()
    connection.close()


@pytest.mark.parametrize("kind", ["status_line", "header", "length", "chunk"])
def test_garbage_is_what_was_asked_for(start: Start, kind: str) -> None:
    engine = start()
    body = json.dumps(asking("x", fake={"garbage": kind})).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(engine.socket))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        received = b""
        while part := client.recv(4096):
            received += part
    wrong = {"status_line": b"NONSENSE", "header": b"no colon", "length": b": many", "chunk": b"zz"}
    assert wrong[kind] in received


def test_status_and_headers_of_an_answer_can_be_set(start: Start) -> None:
    engine = start()
    status, content = engine.ask(CHAT, asking("x", fake={"status": 503}))
    assert status == 503
    assert json.loads(content)["error"]["type"] == "InternalServerError"
    connection = UnixConnection(engine.socket)
    connection.request("POST", CHAT, json.dumps(asking("x", fake={"headers": {"X-Engine": "7"}})))
    assert connection.getresponse().headers["x-engine"] == "7"
    connection.close()


def test_bad_bodies_are_refused_as_vllm_refuses_them(start: Start) -> None:
    engine = start()
    assert engine.ask(CHAT, asking("x", model="other"))[0] == 404
    assert engine.ask(CHAT, ["no object"])[0] == 400
    assert engine.ask(CHAT, asking("x", fake={"no_such": 1}))[0] == 400
    assert engine.ask("/v1/nowhere", {})[0] == 404


def test_health_is_503_until_loaded(start: Start) -> None:
    began_mono_s = time.monotonic()
    engine = start("--fake-load-seconds=1", healthy=False, held=True)
    until(lambda: engine.health() == 503)
    engine.switch_file.unlink()
    until(lambda: engine.health() == 200)
    assert time.monotonic() - began_mono_s >= 1


def test_late_listener_refuses_connections_until_loaded(start: Start) -> None:
    engine = start("--fake-listen=late", healthy=False, held=True)
    until(engine.socket.exists)
    with pytest.raises(ConnectionRefusedError):
        engine.ask("/health")
    engine.switch_file.unlink()
    until(lambda: engine.health() == 200)


def test_loading_is_told_line_by_line(start: Start) -> None:
    engine = start()
    engine.process.terminate()
    said = engine.output()
    shares = [f"shards: {share:4.0%} Completed" for share in (0, 0.25, 0.5, 0.75, 1)]
    assert [said.find(share) for share in shares] == sorted(said.find(share) for share in shares)
    assert all(share in said for share in shares)


def test_crash_at_start_ends_with_its_code_and_last_words(start: Start) -> None:
    arguments = ("--fake-crash-at-start", "--fake-exit-code=3", "--fake-crash-log=no memory left")
    engine = start(*arguments, healthy=False)
    assert engine.output().splitlines()[-1] == "no memory left"
    assert engine.process.returncode == 3


def test_left_behind_socket_fails_the_start(start: Start) -> None:
    first = start()
    first.process.kill()
    first.process.wait()
    second = start(healthy=False)
    assert "Address already in use" in second.output()
    assert second.process.returncode != 0


def test_hanging_engine_never_gets_healthy_and_stops_on_sigint(start: Start) -> None:
    engine = start("--fake-load-hang", healthy=False)
    until(lambda: engine.health() == 503)
    time.sleep(0.3)
    assert engine.health() == 503
    engine.process.send_signal(signal.SIGINT)
    assert engine.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_loaded_engine_with_an_open_stream(start: Start, number: int) -> None:
    engine = start()
    connection, _ = open_stream(engine, asking("x", fake={"stall_after_tokens": 1}))
    engine.process.send_signal(number)
    assert engine.process.wait(DEADLINE_S) == 0
    connection.close()


def test_stubborn_engine_ends_by_sigkill_only(start: Start) -> None:
    engine = start("--fake-ignore-signals=TERM,INT")
    engine.process.send_signal(signal.SIGTERM)
    engine.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert engine.health() == 200
    engine.process.kill()
    assert engine.process.wait(DEADLINE_S) == -signal.SIGKILL


def test_memory_is_resident(start: Start) -> None:
    size_bytes = 100 * 1024 * 1024
    engine = start(f"--fake-memory-bytes={size_bytes}")
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)
    assert resident_kib * 1024 > size_bytes


def test_workers_are_children_and_leave_after_their_parent(start: Start) -> None:
    engine = start("--fake-workers=2")
    pid = engine.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 2
    engine.process.kill()
    engine.process.wait()
    until(lambda: not any(lives(child) for child in children))


def lives(pid: str) -> bool:
    """Whether it has not ended; who collects it then, and when, is another matter."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_switch_file_changes_a_running_engine(start: Start) -> None:
    engine = start()
    engine.switch_file.write_text('{"status": 500}')
    assert engine.ask(CHAT, asking("x"))[0] == 500
    engine.switch_file.unlink()
    assert engine.ask(CHAT, asking("x"))[0] == 200


def test_held_answer_goes_on_when_its_name_is_released(start: Start) -> None:
    engine = start()
    connection, response = open_stream(engine, asking("a b c", fake={"held_as": "mine"}))
    until(lambda: b"echo:" in response.readline())
    assert engine.ask(CHAT, asking("another"))[0] == 200
    assert engine.state()["running"] == 1
    engine.json("/fake/release/mine")
    assert response.read().endswith(b"data: [DONE]\n\n")
    connection.close()
    # A name that is released already holds nothing.
    assert engine.ask(CHAT, asking("x y", fake={"held_as": "mine"}))[0] == 200


def test_switch_file_makes_the_next_start_crash(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fake.json").write_text('{"crash_at_start": true, "exit_code": 9}')
    engine = start(healthy=False)
    assert engine.process.wait(DEADLINE_S) == 9


def test_switch_file_holds_a_load_until_it_is_gone(start: Start) -> None:
    engine = start(healthy=False, held=True)
    until(lambda: engine.health() == 503)
    time.sleep(0.3)
    assert engine.health() == 503
    engine.switch_file.unlink()
    until(lambda: engine.health() == 200)


def test_unknown_setting_is_refused_at_start(start: Start) -> None:
    engine = start("--fake-lode-seconds=1", healthy=False)
    assert "no such fake setting: 'lode_seconds'" in engine.output()
    assert engine.process.returncode == 2


def test_serves_tcp_when_no_unix_socket_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, str(SERVER), "serve", "fake-a", "--host", "127.0.0.1"]
    process = subprocess.Popen([*argv, "--port", str(port)], stdout=subprocess.DEVNULL)

    def health() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0
        finally:
            connection.close()

    try:
        until(lambda: health() == 200)
    finally:
        process.kill()
        process.wait()
