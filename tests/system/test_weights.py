# SPDX-License-Identifier: Apache-2.0
"""Weights as a real container sees them, and descriptions of devices as real Podman reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .hosts import Host, answer_of

pytestmark = pytest.mark.system

CACHE = "/var/lib/sparkd/models/hub"
REPOSITORY = f"{CACHE}/models--Org--Name"
SNAPSHOT = f"{REPOSITORY}/snapshots/rev1"
ENTRY = "/etc/sparkd/models.d/cached.yaml"
MODEL = "{image: localhost/sparkd-fake-vllm:latest, gpu: %s, max_model_len: 2048, weights: %s}"
CDI = "/etc/cdi/nvidia.yaml"


def entry(path: str, gpu: str = "none") -> str:
    return f"models:\n  cached: {MODEL % (gpu, 'none' if not path else f'{{path: {path}}}')}\n"


@pytest.fixture
def cache(host: Host) -> Iterator[Host]:
    """A host with a cache of Hugging Face that holds two repositories."""
    host.sh(
        f"mkdir -p {REPOSITORY}/blobs {SNAPSHOT}/sub {CACHE}/models--Org--Other/blobs;"
        f"echo content >{REPOSITORY}/blobs/aa; echo other >{CACHE}/models--Org--Other/blobs/cc;"
        f"ln -s ../../blobs/aa {SNAPSHOT}/config.json;"
        f"ln -s ../{'../' * 2}blobs/aa {SNAPSHOT}/sub/deep.json"
    )
    yield host
    host.stop_models()
    host.run("rm", "-rf", CACHE)


def in_container(host: Host, command: str) -> str:
    container = host.run("podman", "ps", "-q", user="sparkd").stdout.split()[0]
    words = ("podman", "exec", container, "sh", "-c", command)
    return host.run(*words, user="sparkd", check=False).stdout


def test_snapshot_of_a_cache_is_read_through_its_links_and_no_other_repository_is(
    cache: Host,
) -> None:
    with cache.file(ENTRY, entry(SNAPSHOT)):
        assert cache.run("sparkctl", "check").stdout.startswith("ok")
        assert answer_of(cache.chat("cached")).startswith("echo")
        inside = "/models/cached/snapshots/rev1"
        assert in_container(cache, f"cat {inside}/config.json {inside}/sub/deep.json") == (
            "content\ncontent\n"
        )
        assert in_container(cache, "tr '\\0' ' ' </proc/1/cmdline").count(inside) == 1
        assert in_container(cache, "find / -name cc -not -path '/proc/*' 2>&-") == ""
        assert in_container(cache, f"touch {inside}/x && echo written") == ""
        cache.stop_models()


def test_link_that_leaves_is_named_by_check_doctor_show_and_start(cache: Host) -> None:
    cache.run("ln", "-s", f"{CACHE}/models--Org--Other/blobs/cc", f"{SNAPSHOT}/model.safetensors")
    with cache.file(ENTRY, entry(SNAPSHOT)):
        error = cache.chat("cached").json()["error"]
        assert error["code"] == "weights_misplaced"
        said = f"{SNAPSHOT}/model.safetensors links to "
        assert said in error["message"]
        assert said in cache.run("sparkctl", "check", check=False).stdout
        assert said in cache.run("sparkctl", "show", "cached").stdout
        assert said in cache.run("sparkctl", "doctor", check=False).stdout


def test_broken_description_of_another_vendor_stops_no_model(host: Host) -> None:
    broken = "printf 'x: [' >/etc/cdi/vendor.yaml; ln -s /nowhere /etc/cdi/link.yaml"
    host.sh(broken)
    try:
        with host.file(ENTRY, entry("", gpu="all")):
            assert answer_of(host.chat("cached")).startswith("echo")
            host.stop_models()
        said = json.loads(host.run("sparkctl", "doctor", "--json", check=False).stdout)
        levels = {one["level"] for one in said["findings"] if one["code"] == "cdi-broken"}
        assert levels == {"warning"}
    finally:
        host.sh("rm /etc/cdi/vendor.yaml /etc/cdi/link.yaml")


TABS = f"""
import json, yaml
text = json.dumps(yaml.safe_load(open({CDI!r})), indent=chr(9))
open({CDI!r}, "w").write(text)
"""
HOOK = f"""
import yaml
spec = yaml.safe_load(open({CDI!r}))
hook = dict(hookName="createContainer", path="/usr/bin/nvidia-cdi-hook", args=["nvidia-cdi-hook"])
spec.setdefault("containerEdits", dict())["hooks"] = [hook]
yaml.safe_dump(spec, open({CDI!r}, "w"))
"""


@pytest.fixture
def described(host: Host) -> Iterator[Host]:
    host.run("cp", CDI, "/root/nvidia.yaml")
    yield host
    host.stop_models()
    host.run("cp", "/root/nvidia.yaml", CDI)


def codes(host: Host) -> set[str]:
    said = json.loads(host.run("sparkctl", "doctor", "--json", check=False).stdout)
    return {one["code"] for one in said["findings"] if one["code"].startswith("cdi")}


def test_description_in_json_with_tabs_is_one_for_podman_and_doctor(described: Host) -> None:
    described.run("python3", "-c", TABS)
    assert codes(described) == set()
    with described.file(ENTRY, entry("", gpu="all")):
        assert answer_of(described.chat("cached")).startswith("echo")


def test_hook_that_is_missing_is_seen_and_is_the_reason_of_the_start(described: Host) -> None:
    described.run("python3", "-c", HOOK)
    assert codes(described) == {"cdi-stale"}
    with described.file(ENTRY, entry("", gpu="all")):
        error = described.chat("cached").json()["error"]
    assert error["code"] == "cdi_unresolvable"
    assert "/usr/bin/nvidia-cdi-hook" in error["message"]


def test_version_that_podman_does_not_read_is_named_with_the_file(described: Host) -> None:
    described.run("sed", "-i", "s/cdiVersion.*/cdiVersion: 1.0.0/", CDI)
    assert codes(described) == {"cdi-version"}
    with described.file(ENTRY, entry("", gpu="all")):
        error = described.chat("cached").json()["error"]
    assert error["code"] == "cdi_unresolvable"
    assert f"cannot use {CDI}: CDI 1.0.0, it reads up to" in error["message"]
