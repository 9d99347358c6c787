# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pull` on a booted host, from a stand-in for the hub on its loopback: a model whose
weights are missing says so, is fetched as the user sparkd, and serves; a full disk shows nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from .hosts import ROOT, SETTINGS, Host, answer_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

SERVER = (ROOT / "tests/hub/server.py").read_text()
PORT = 8090
REPO = "/var/tmp/hub/org/name"
MODELS = "/var/lib/sparkd/models"
WEIGHTS = f"{MODELS}/org--name"
FILES = "/var/lib/sparkd/files"
BLOB_BYTES = 3 << 20
FAKE = "image: localhost/sparkd-fake-vllm:latest, shm_size: 64MiB, idle_timeout: 1m"


@pytest.fixture
def pulling(host: Host) -> Iterator[Host]:
    """A host with a hub, and models that come from it."""
    server = f"python3 /var/tmp/hub/server.py /var/tmp/hub --port {PORT}"
    blob = host.sh(
        f"mkdir -p {REPO}; cd {REPO}; echo '{{}}' >config.json; "
        f"head -c {BLOB_BYTES} /dev/urandom >model.safetensors; "
        f"cat >/var/tmp/hub/server.py <<'END'\n{SERVER}\nEND\n"
        f"systemd-run --quiet --unit=stand-in-hub --collect {server}; "
        "sha256sum model.safetensors"
    ).split()[0]
    host.configure(f"{SETTINGS}hub: http://127.0.0.1:{PORT}\n")
    address = f"http://127.0.0.1:{PORT}/org/name/resolve/main/model.safetensors"
    models = (
        "models:\n"
        f"  pulled: {{{FAKE}, weights: {{repo: org/name}}}}\n"
        f"  with-file: {{{FAKE}, weights: none,"
        f" files: {{/opt/blob: {{url: '{address}', sha256: {blob}}}}}}}\n"
    )
    try:
        with host.file("/etc/sparkd/models.d/test-pull.yaml", models):
            host.wait_until(lambda: listens(host), "the hub listens")
            yield host
            host.stop_models()
    finally:
        host.sh(
            f"systemctl stop stand-in-hub; umount {FILES} {MODELS}; "
            f"rm -rf /var/tmp/hub {WEIGHTS} {MODELS}/.*.partial {FILES}/*",
            check=False,
        )


def listens(host: Host) -> bool:
    return host.run("curl", "-s", f"http://127.0.0.1:{PORT}/", check=False).returncode == 0


def seen(host: Host, directory: str) -> str:
    """What looks like something that could be served."""
    return host.sh(f"cd {directory}; find . -path '*.partial' -prune -o -type f -print")


def test_model_without_weights_names_the_pull_that_brings_them_and_serves_after_it(
    pulling: Host,
) -> None:
    refused = pulling.chat("pulled")
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert error["code"] == "weights_missing"
    assert error["hint"] == "sudo sparkctl pull pulled"
    pulling.run("sparkctl", "pull", "pulled")
    assert answer_of(pulling.chat("pulled", "hello")) == "echo: hello"
    assert pulling.sh(f"find {WEIGHTS} ! -user sparkd") == ""
    assert pulling.sh(f"cmp {REPO}/model.safetensors {WEIGHTS}/model.safetensors && echo same")


def test_pull_that_is_killed_shows_no_weights_and_the_next_one_brings_them(pulling: Host) -> None:
    for point in ("pull-written", "pull-recorded"):
        pull = ("env", f"SPARKD_FAULT={point}", "sparkctl", "pull", "pulled")
        assert pulling.run(*pull, check=False).returncode != 0
        assert seen(pulling, MODELS) == ""
        assert pulling.chat("pulled").json()["error"]["code"] == "weights_missing"
    pulling.run("sparkctl", "pull", "pulled")
    assert pulling.sh(f"cmp {REPO}/model.safetensors {WEIGHTS}/model.safetensors && echo same")
    assert pulling.sh(f"ls -A {MODELS}").split() == ["org--name"]


def test_what_does_not_fit_is_refused_before_a_byte_is_fetched(pulling: Host) -> None:
    pulling.sh(f"mount -t tmpfs -o size=2M,uid=$(id -u sparkd) none {MODELS}")
    refused = pulling.run("sparkctl", "pull", "pulled", check=False)
    assert refused.returncode == 6
    said = refused.stderr.splitlines()[0]
    assert said.startswith("sparkctl: 3.0 MiB are to be fetched, 2.0 MiB are free in ")
    assert pulling.sh(f"ls -A {MODELS}") == ""


def test_file_that_does_not_fit_is_refused_by_its_told_size_and_fetched_to_a_larger_disk(
    pulling: Host,
) -> None:
    pulling.sh(f"mount -t tmpfs -o size=2M,uid=$(id -u sparkd) none {FILES}")
    full = pulling.run("sparkctl", "pull", "with-file", check=False)
    assert full.returncode == 6
    said = full.stderr.splitlines()[-2]
    assert said.startswith("sparkctl: 3.0 MiB are to be fetched, 2.0 MiB are free in ")
    assert seen(pulling, FILES) == ""
    assert pulling.chat("with-file").json()["error"]["code"] == "files_missing"
    pulling.sh(f"mount -o remount,size=16M {FILES}")
    pulling.run("sparkctl", "pull", "with-file")
    (name,) = pulling.sh(f"ls -A {FILES}").split()
    content = pulling.run("sha256sum", f"{FILES}/{name}").stdout
    assert content.split()[0] == name
    assert len(name) == len(hashlib.sha256().hexdigest())
    assert pulling.chat("with-file").status_code == 200
