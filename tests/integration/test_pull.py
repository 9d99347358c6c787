# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pull` against the stand-in hub, killed and disturbed in every way: what is there under
its name is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from sparkd.sparkctl.exit_codes import Exit

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

LARGE = random.Random(1).randbytes(3 << 20)
SMALL_BYTES = 1 << 16
"""More than the other files have."""
SLOW = 1 << 17
"""Bytes a second: a large file takes 24 s, longer than a test looks away on a busy machine."""
ENCODING = b"token 1\n" * 1000
FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model-00001-of-00002.safetensors": LARGE,
    "model-00002-of-00002.safetensors": LARGE[::-1],
    "sub/vocab #1.json": b"x" * 5000,
}
LEFT_OUT = {"pytorch_model.bin": b"y" * 5000, "original/consolidated.safetensors": b"z" * 5000}
KILL_POINTS = (
    "pull-written",
    "pull-complete",
    "pull-verified",
    "pull-assembled",
    "pull-recorded",
    "pull-placed",
)


@dataclass
class Hub:
    """A running stand-in and the installation that pulls from it."""

    repos: Path
    port: int
    other_port: int
    environ: dict[str, str]
    state: Path

    @property
    def weights(self) -> Path:
        return self.state / "models/org--name"

    def behave(self, **behaviour: object) -> None:
        httpx.put(f"http://127.0.0.1:{self.port}/stand-in/behave", json=behaviour)

    def wait_for_a_part(self) -> None:
        """Return when some of a large file was written and, this slow, most is still to come."""
        give_up_at = time.monotonic() + 120
        while not any(size >= SMALL_BYTES for size in self.part_sizes()):
            assert time.monotonic() < give_up_at, "nothing was fetched"
            time.sleep(0.02)

    def part_sizes(self) -> list[int]:
        sizes = []
        for part in self.state.rglob("*.part"):
            with contextlib.suppress(FileNotFoundError):  # It was whole and got its name.
                sizes.append(part.stat().st_size)
        return sizes

    def requests(self) -> list[dict[str, Any]]:
        asked = httpx.get(f"http://127.0.0.1:{self.port}/stand-in/requests").json()
        assert isinstance(asked, list)
        return asked

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        program = "import sys; from sparkd.sparkctl.main import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", program, "pull", *(words or ("small",))],
            cwd=ROOT,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pull(self, *words: str, **environ: str) -> tuple[int, str, str]:
        with self.start(*words, **environ) as process:
            out, err = process.communicate(timeout=250)
        return process.returncode, out, err

    def whole(self, expected: dict[str, bytes] = FILES) -> bool:
        """Whether the weights are there; if they are, they must be right to the last byte."""
        if not self.weights.exists():
            return False
        found = {
            str(path.relative_to(self.weights)): path.read_bytes()
            for path in self.weights.rglob("*")
            if path.is_file() and not path.name.startswith(".sparkd")
        }
        assert found == expected
        return True

    def leftovers(self) -> list[str]:
        return [path.name for path in self.state.rglob("*.partial")]

    def put(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.repos / "org/name" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@contextlib.contextmanager
def serving(tmp_path: Path, *options: str) -> Iterator[Hub]:
    repos = tmp_path / "repos"
    server = [sys.executable, str(ROOT / "tests/hub/server.py"), str(repos), *options]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port, other_port = (int(word) for word in process.stdout.readline().split())
            yield installation(tmp_path, repos, port, other_port)
        finally:
            process.kill()


def installation(tmp_path: Path, repos: Path, port: int, other_port: int) -> Hub:
    """Directories of our own, with a catalog of models that the hub has."""
    environ = dict(os.environ, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    for name in ("runtime", "state", "config", "catalog"):
        (tmp_path / name).mkdir()
        environ[f"SPARKD_{name.upper()}_DIR"] = str(tmp_path / name)
    (tmp_path / "runtime/locks").mkdir()
    state = tmp_path / "state"
    hub = Hub(repos=repos, port=port, other_port=other_port, environ=environ, state=state)
    hub.put(FILES | LEFT_OUT)
    (repos / "encoding").write_bytes(ENCODING)
    sha256 = hashlib.sha256(ENCODING).hexdigest()
    (tmp_path / "catalog/test.yaml").write_text(
        "defaults: {image: registry.example/vllm:1}\nmodels:\n"
        "  small: {weights: {repo: org/name}}\n"
        "  by-hand: {weights: {path: /nowhere/at/all}}\n"
        "  none: {weights: none}\n"
        "  gone: {weights: {repo: org/gone}}\n"
        "  files:\n    weights: none\n    files:\n"
        f"      /e: {{url: 'http://127.0.0.1:{other_port}/encoding', sha256: {sha256}}}\n"
        "      /v: {repo: org/name, file: 'sub/vocab #1.json'}\n"
    )
    return hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path) as hub:
        yield hub


def test_pull_brings_every_file_that_a_server_reads_and_no_other_weights(hub: Hub) -> None:
    code, out, err = hub.pull()
    assert code == Exit.OK, err
    assert hub.whole()
    assert hub.leftovers() == []
    assert out.startswith(f"{hub.weights}: org/name@")
    assert out.rstrip().endswith("6.0 MiB fetched")


def test_second_pull_of_what_is_whole_fetches_nothing(hub: Hub) -> None:
    hub.pull()
    hub.behave()
    code, out, _ = hub.pull()
    assert code == Exit.OK
    assert out.rstrip().endswith("was there")
    assert [one["path"].split("/")[1] for one in hub.requests()] == ["api"]


@pytest.mark.parametrize("point", KILL_POINTS)
def test_pull_killed_at_any_point_shows_nothing_that_is_not_whole_and_the_next_one_ends_right(
    hub: Hub, point: str
) -> None:
    code, _, _ = hub.pull(SPARKD_FAULT=point)
    assert code == -signal.SIGKILL
    assert hub.whole() == (point == "pull-placed")
    code, _, err = hub.pull()
    assert code == Exit.OK, err
    assert hub.whole()
    if point != "pull-placed":
        assert hub.leftovers() == []


def test_pull_killed_in_the_middle_goes_on_where_it_was(hub: Hub) -> None:
    hub.behave(bytes_per_s=SLOW)
    with hub.start() as process:
        hub.wait_for_a_part()
        process.kill()
    assert not hub.whole()
    begun = [size for size in hub.part_sizes() if size]
    assert max(begun) < len(LARGE)
    hub.behave()
    assert hub.pull()[0] == Exit.OK
    assert hub.whole()
    ranges = {one["range"] for one in hub.requests() if one["range"]}
    # A small file may have come whole and not got its name yet: nothing more of it is asked for.
    assert {f"bytes={size}-" for size in begun if size >= SMALL_BYTES} <= ranges
    assert ranges <= {f"bytes={size}-" for size in begun}


def test_part_that_was_harmed_on_the_disk_is_fetched_anew(hub: Hub) -> None:
    hub.behave(bytes_per_s=SLOW)
    with hub.start() as process:
        hub.wait_for_a_part()
        process.kill()
    part = max(hub.state.rglob("*.part"), key=lambda path: path.stat().st_size)
    with part.open("r+b") as file:
        file.write(b"\0\0\0\0")
    hub.behave()
    code, _, err = hub.pull()
    assert code == Exit.OK
    assert "checksum is wrong; again now" in err
    assert hub.whole()


def test_hub_that_breaks_off_is_asked_for_the_rest(hub: Hub) -> None:
    hub.behave(only=".safetensors", cut_after=1 << 20)
    code, _, err = hub.pull()
    assert code == Exit.OK, err
    assert "broke off" in err
    assert hub.whole()


def test_hub_that_knows_no_ranges_is_fetched_from_the_beginning(hub: Hub) -> None:
    hub.behave(bytes_per_s=SLOW)
    with hub.start() as process:
        hub.wait_for_a_part()
        process.kill()
    hub.behave(ignore_range=True)
    code, _, err = hub.pull()
    assert code == Exit.OK
    assert "again" not in err
    assert hub.whole()


def test_wrong_checksum_is_an_error_and_leaves_no_weights(hub: Hub) -> None:
    hub.behave(only="model-00001", corrupt=True)
    code, out, err = hub.pull()
    assert code == Exit.FETCH_FAILED
    assert "model-00001-of-00002.safetensors: its sha256 is " in err
    assert hashlib.sha256(LARGE).hexdigest() in err
    assert out == ""
    assert not hub.whole()
    hub.behave()
    assert hub.pull()[0] == Exit.OK
    assert hub.whole()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "wants a token (401)"),
        (403, "does not give access (403)"),
        (404, "not at 127.0.0.1 (404)"),
    ],
)
def test_refusal_of_the_hub_is_said_in_one_line_with_what_to_do(
    hub: Hub, status: int, said: str
) -> None:
    hub.behave(status=status)
    code, _, err = hub.pull()
    assert code == Exit.FETCH_FAILED
    first, second = err.splitlines()
    assert first.startswith("sparkctl: org/name at main: ")
    assert said in first
    assert second.startswith("  hint: ")


@pytest.mark.parametrize(("status", "times"), [(429, 2), (500, 1)])
def test_overloaded_hub_is_asked_again(hub: Hub, status: int, times: int) -> None:
    hub.behave(status=status, times=times, headers={"retry-after": "1"} if status == 429 else {})
    code, _, err = hub.pull()
    assert code == Exit.OK, err
    assert err.count("again in 1 s") >= 1
    assert hub.whole()


def test_hub_that_wants_an_hours_pause_is_an_error_at_once(hub: Hub) -> None:
    hub.behave(status=429, headers={"retry-after": "3600"})
    began_s = time.monotonic()
    code, _, err = hub.pull()
    assert code == Exit.FETCH_FAILED
    assert "answers 429" in err
    assert time.monotonic() - began_s < 250


def test_repository_that_is_not_there_is_an_error(hub: Hub) -> None:
    code, _, err = hub.pull("gone")
    assert code == Exit.FETCH_FAILED
    assert "org/gone at main: not at 127.0.0.1" in err


def test_files_of_an_entry_are_fetched_by_address_and_from_a_repository(hub: Hub) -> None:
    code, out, err = hub.pull("files")
    assert code == Exit.OK, err
    files = hub.state / "files"
    assert (files / hashlib.sha256(ENCODING).hexdigest()).read_bytes() == ENCODING
    assert (files / "org--name/sub/vocab #1.json").read_bytes() == FILES["sub/vocab #1.json"]
    assert hub.leftovers() == []
    assert len(out.splitlines()) == 2
    assert all(line.endswith("was there") for line in hub.pull("files")[1].splitlines())


def test_new_commit_replaces_the_weights_and_fetches_only_what_changed(hub: Hub) -> None:
    hub.pull()
    changed = {**FILES, "config.json": b'{"a": 2}'}
    hub.put(changed)
    code, _, _ = hub.pull(SPARKD_FAULT="pull-displaced")
    assert code == -signal.SIGKILL
    assert not hub.whole(changed)
    hub.behave()
    assert hub.pull()[0] == Exit.OK
    assert hub.whole(changed)
    assert hub.leftovers() == []
    assert [one for one in hub.requests() if "resolve" in one["path"]] == []


def test_of_two_pulls_of_one_model_the_second_is_refused(hub: Hub) -> None:
    hub.behave(bytes_per_s=SLOW)
    with hub.start() as first:
        hub.wait_for_a_part()
        code, _, err = hub.pull()
        assert code == Exit.NOT_NOW
        assert "another sparkctl pull" in err
        hub.behave()
        first.communicate(timeout=250)
    assert first.returncode == Exit.OK
    assert hub.whole()


def test_ctrl_c_ends_it_and_keeps_what_was_fetched(hub: Hub) -> None:
    hub.behave(bytes_per_s=SLOW)
    with hub.start() as process:
        hub.wait_for_a_part()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=250)
    assert process.returncode == Exit.INTERRUPTED
    assert "Traceback" not in err
    assert list(hub.state.rglob("*.part"))
    assert not hub.whole()


def test_weights_that_somebody_put_there_are_left_alone(hub: Hub) -> None:
    hub.weights.mkdir(parents=True)
    (hub.weights / "config.json").write_text("mine")
    code, _, err = hub.pull()
    assert code == Exit.HOST
    assert "was not fetched by sparkctl" in err
    assert (hub.weights / "config.json").read_text() == "mine"


def test_entry_without_a_repository_says_what_to_do(hub: Hub) -> None:
    code, _, err = hub.pull("by-hand")
    assert code == Exit.CONFIGURATION
    assert "put them at /nowhere/at/all, or add repo: ORG/NAME" in err
    assert hub.pull("none")[:2] == (Exit.OK, "none needs nothing that could be fetched\n")


def test_json_is_an_object_a_line_of_which_the_last_is_the_result(hub: Hub) -> None:
    code, out, err = hub.pull("small", "--json")
    assert (code, err) == (Exit.OK, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert events.pop(0)["event"] == "note"
    assert events[0] == {"event": "planned", "files": 5, "total_bytes": 6296464}
    assert {event["event"] for event in events[1:-1]} == {"progress"}
    (pulled,) = events[-1]["pulled"]
    assert (events[-1]["event"], pulled["path"]) == ("done", str(hub.weights))


def test_token_goes_to_the_hub_alone_and_is_never_printed(tmp_path: Path) -> None:
    with serving(tmp_path, "--token", "hf_secret") as hub:
        code, _, err = hub.pull()
        assert code == Exit.FETCH_FAILED
        assert "wants a token" in err
        token = tmp_path / "config/hf-token"
        token.write_text("hf_secret\n")
        token.chmod(0o640)
        hub.behave()
        code, out, err = hub.pull()
        assert code == Exit.OK, err
        assert "hf_secret" not in out + err
        by_port = {one["port"]: one["authorization"] for one in hub.requests()}
        assert by_port == {hub.port: "Bearer hf_secret", hub.other_port: None}
        token.chmod(0o644)
        code, _, err = hub.pull()
        assert code == Exit.CONFIGURATION
        assert f"token file {token} is open to everybody" in err


def test_token_is_not_sent_in_the_clear_to_another_machine(hub: Hub, tmp_path: Path) -> None:
    token = tmp_path / "config/hf-token"
    token.touch(mode=0o600)
    token.write_text("hf_secret\n")
    code, _, err = hub.pull(HF_ENDPOINT="http://hub.example")
    assert code == Exit.CONFIGURATION
    assert "in the clear" in err
