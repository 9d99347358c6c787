# SPDX-License-Identifier: Apache-2.0
"""OpenCode and Cline at the command line, configured by nothing but what `sparkctl integrate` says.

They run in the host's network, where there is nothing but the gateway: no list of models, no update
and no telemetry can be reached.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.hosts import BASE_URL, SETTINGS, Host, Stream

from . import installed
from .conftest import MODEL
from .wire import Tap, command, environment

long = pytest.mark.long


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A program in a home and a project of its own."""

    host: Host
    name: str
    home: Path
    project: Path
    env: dict[str, str]

    def configure(self, url: str, model: str = MODEL) -> None:
        """Follow what sparkctl prints, as the documentation has it."""
        said = self.host.run("sparkctl", "integrate", self.name, model, "--url", url).stdout
        if self.name == "opencode":
            (self.project / "opencode.json").write_text(said)
        else:
            done = subprocess.run(
                command(self.host, "sh", "-ec", said),
                check=False,
                env=self.env,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def start(self, prompt: str) -> subprocess.Popen[str]:
        """Begin one task that needs no answers from a person."""
        argv = {
            "opencode": ["opencode", "run", "--format", "json"],
            "cline": ["cline", "--json", "--retries", "1", prompt],
        }[self.name]
        process = subprocess.Popen(
            command(self.host, *argv),
            cwd=self.project,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        # OpenCode puts quotes around words of its command line, and none around its input.
        process.stdin.write(prompt if self.name == "opencode" else "")
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, prompt: str, timeout_s: float = 90) -> str:
        """All that it printed about one task."""
        with self.start(prompt) as process:
            try:
                return process.communicate(timeout=timeout_s)[0]
            finally:
                process.kill()

    def reading(self, path: Path) -> str:
        """A prompt that has the stand-in call this agent's tool for reading files."""
        calls: dict[str, tuple[str, dict[str, Any]]] = {
            "opencode": ("read", {"filePath": str(path)}),
            "cline": ("read_files", {"files": [{"path": str(path)}]}),
        }
        name, arguments = calls[self.name]
        return f"use {name} {json.dumps(arguments)}"


@pytest.fixture(params=["opencode", "cline"])
def agent(trixie: Host, key: str, request: pytest.FixtureRequest, tmp_path: Path) -> Agent:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    path = f"{installed.node_modules()}/.bin:{os.environ['PATH']}"
    env = environment(home, PATH=path, SPARKD_API_KEY=key, TERM="dumb")
    return Agent(host=trixie, name=request.param, home=home, project=project, env=env)


@pytest.fixture
def at_rest(trixie: Host) -> Host:
    trixie.run("systemctl", "start", "sparkd.socket")
    trixie.stop_models()
    trixie.configure(SETTINGS)
    return trixie


def test_agent_waits_through_a_cold_start_and_works_with_its_tools(
    at_rest: Host, agent: Agent, tap: Tap
) -> None:
    agent.configure(tap.url)
    note = agent.project / "note.txt"
    note.write_text("the word is marmalade\n")
    printed = agent.run(agent.reading(note))
    # Both are built on OpenAI's library for JavaScript, or read chunks themselves.
    kept = (b": sparkd loading fake-agent", b'"delta": {}')
    assert any(form in tap.answers for form in kept), printed
    # The model's answer is an echo of what the tool read.
    assert "echo:" in printed
    assert "marmalade" in printed


@long
def test_agent_says_that_the_key_is_wrong(warm: Host, agent: Agent) -> None:
    agent.env["SPARKD_API_KEY"] = "sk-wrong"
    agent.configure(BASE_URL)
    assert "the API key is not one of this server's" in agent.run("hello there")


@long
@pytest.mark.parametrize("agent", ["cline"], indirect=True)  # OpenCode goes on trying.
def test_agent_tells_why_a_model_did_not_start(at_rest: Host, agent: Agent) -> None:
    agent.configure(BASE_URL, "fake-hang")
    assert "was not healthy within" in agent.run("hello there")


@long
def test_agent_waits_for_a_model_that_is_refused_at_first(
    at_rest: Host, agent: Agent, tap: Tap
) -> None:
    at_rest.configure(SETTINGS + "busy: reject\n")
    agent.configure(tap.url)
    running = Stream(at_rest, "fake-a", tokens=1000, pace_ms=100)
    running.wait_first()
    with agent.start("hello there") as process:
        at_rest.wait_until(lambda: b"HTTP/1.1 429 " in tap.answers, "it was refused", 60)
        running.leave()
        printed = process.communicate(timeout=90)[0]
    assert "echo: hello there" in printed


@long
def test_engine_stops_when_the_agent_is_ended(warm: Host, agent: Agent, tap: Tap) -> None:
    agent.configure(tap.url)
    before = warm.engine_state(MODEL)["cancelled"]
    switch = f"/var/lib/sparkd/cache/{MODEL}/fake.json"
    with warm.file(switch, json.dumps({"pace_ms": 2000})), agent.start("one two three") as process:
        try:
            warm.wait_until(lambda: b'"content":"echo:"' in tap.answers, "the answer begins", 60)
        finally:
            process.kill()
        warm.wait_until(
            lambda: warm.engine_state(MODEL)["cancelled"] > before, "the engine stopped", 20
        )
