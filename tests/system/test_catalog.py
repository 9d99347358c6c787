# SPDX-License-Identifier: Apache-2.0
"""The shipped catalog and its keys on a booted host; nothing here depends on how many it has."""

from __future__ import annotations

import json
import os

import pytest

from .hosts import Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

LOCAL = "/etc/sparkd/models.d/test-catalog.yaml"
FAKE = "image: localhost/sparkd-fake-vllm:latest, shm_size: 64MiB, idle_timeout: 10m"
ENGINE = "{command: [vllm, serve, '{model}', --served-model-name, '{model}', --uds, '{socket}']}"


def test_shipped_catalog_has_no_problem(host: Host) -> None:
    checked = json.loads(host.run("sparkctl", "check", "--json").stdout)
    assert checked["problems"] == []
    listed = host.run("sparkctl", "models", "--json").stdout
    assert "gpt-oss-120b" in {model["id"] for model in json.loads(listed)}


def test_disabled_model_is_refused_with_its_reason_and_left_out_of_the_list(host: Host) -> None:
    entry = f"models: {{fake-off: {{{FAKE}, status: disabled, reason: its output is garbage}}}}\n"
    with host.file(LOCAL, entry):
        host.run("systemctl", "restart", "sparkd.service")
        refused = host.chat("fake-off")
        assert refused.status_code == 404
        error = refused.json()["error"]
        assert error["code"] == "model_disabled"
        assert "its output is garbage" in error["message"]
        offered = {model["id"] for model in host.request("GET", "/v1/models").json()["data"]}
        assert "fake-off" not in offered
        assert host.request("POST", "/models/fake-off/load").status_code == 404
        started = host.run("sparkctl", "start", "fake-off", check=False)
        assert started.returncode == 7
        assert "is disabled: its output is garbage" in started.stderr
        assert "fake-off" in host.run("sparkctl", "models", "--all").stdout
        assert json.loads(host.run("sparkctl", "ps", "--json").stdout) == []


def test_files_of_an_entry_are_there_read_only_or_the_start_says_what_is_missing(
    host: Host,
) -> None:
    files = "files: {/extra/a.txt: {path: /var/lib/sparkd/files/a.txt}}"
    with host.file(LOCAL, f"models: {{fake-files: {{{FAKE}, {files}}}}}\n"):
        missing = host.run("sparkctl", "start", "fake-files", check=False)
        assert missing.returncode == 7
        assert "the file /var/lib/sparkd/files/a.txt is missing" in missing.stderr
        host.sh("echo content >/var/lib/sparkd/files/a.txt", user="sparkd")
        try:
            host.run("sparkctl", "start", "fake-files")
            (running,) = json.loads(host.run("sparkctl", "ps", "--json").stdout)
            inside = f"/proc/{running['pid']}/root/extra/a.txt"
            assert host.run("cat", inside).stdout == "content\n"
            mounts = host.run("cat", f"/proc/{running['pid']}/mountinfo").stdout
            (mount,) = [line for line in mounts.splitlines() if " /extra/a.txt " in line]
            assert mount.split()[5].startswith("ro")
        finally:
            host.stop_models()
            host.run("rm", "/var/lib/sparkd/files/a.txt")


def test_server_with_a_command_of_its_own_serves(host: Host) -> None:
    with host.file(LOCAL, f"models: {{fake-other: {{{FAKE}, engine: {ENGINE}}}}}\n"):
        host.run("systemctl", "restart", "sparkd.service")
        assert host.chat("fake-other").status_code == 200
        host.stop_models()
