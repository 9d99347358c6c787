# SPDX-License-Identifier: Apache-2.0
"""Descriptions of devices are read as Podman reads them, and its errors lead to the right cure."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sparkd.adapters import host_facts
from sparkd.core.diagnosis import cdi
from sparkd.core.diagnosis.facts import CdiSpec, Engine, Gpu
from sparkd.core.diagnosis.findings import Finding, Level
from sparkd.core.diagnosis.gpu import gpu_findings, unresolved_reason

TEXT = """
cdiVersion: 0.7.0
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes: [{path: /dev/nvidia0}, {path: /dev/inside, hostPath: /dev/outside}]
    hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [a]}]
containerEdits:
  additionalGids: [44]
  mounts: [{hostPath: /usr/lib/libcuda.so.580, containerPath: /x}]
"""
ALL = "nvidia.com/gpu=all"
SPEC = CdiSpec(path="/etc/cdi/nvidia.yaml", directory="/etc/cdi", version="0.5.0", devices=(ALL,))
OTHER = CdiSpec(path="/etc/cdi/vendor.yaml", directory="/etc/cdi", version="0.5.0")
ENGINE = Engine(socket_state="active", version=(4, 9, 3))


def found(*specs: CdiSpec) -> list[Finding]:
    gpu = Gpu(specs=specs, wanted=(ALL,), driver="580")
    return [one for one in gpu_findings(gpu, ENGINE) if one.code.startswith("cdi")]


def test_devices_files_and_hooks_that_are_missing_are_seen() -> None:
    spec = cdi.parse(TEXT, "/etc/cdi/n.yaml", exists=lambda path: path == "/dev/nvidia0")
    assert (spec.version, spec.devices) == ("0.7.0", (ALL,))
    assert spec.missing == (
        *("/dev/outside", "/usr/bin/nvidia-cdi-hook", "/usr/lib/libcuda.so.580"),
    )


def test_json_with_tabs_is_read_as_podman_reads_it() -> None:
    value = yaml.safe_load(TEXT)
    text = json.dumps(value, indent="\t")
    assert "\t" in text
    spec = cdi.parse(text, "/etc/cdi/n.json", exists=bool)
    assert (spec.broken, spec.devices) == ("", (ALL,))


@pytest.mark.parametrize(
    "text",
    [
        *("", "x: [", "- a", "5", "kind: x", "{", "[" * 5000, "{" * 5000, '{"a":' * 5000),
        *("kind: x\ncdiVersion: 1\ndevices: x", "kind: x\ncdiVersion: 1\ndevices: [x]"),
        *("kind: x\ncdiVersion: 1\ndevices: [{}]", "kind: [x]\ncdiVersion: 1\ndevices: []"),
        *("a: 2001-99-99", "!!python/object:os.system {}", "? [a]\n: b", "&a [*a]", "\0"),
        "a: &a [x,x,x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a,*a,*a]\n" for n in range(30_000)),
    ],
)
def test_text_that_is_no_description_is_broken_with_a_reason(text: str) -> None:
    spec = cdi.parse(text, "/etc/cdi/x.yaml", exists=bool)
    assert spec.broken
    assert len(spec.broken) <= 200
    assert spec.broken.isprintable()


@pytest.mark.parametrize("edits", ["x", [], [{}], {"hooks": 5}, {"hooks": [5, {"path": 5}]}])
def test_odd_edits_name_no_files(edits: object) -> None:
    value = {"kind": "a/b", "cdiVersion": "0.5.0", "devices": [{"name": "x"}]}
    text = json.dumps({**value, "containerEdits": edits})
    assert cdi.parse(text, "/etc/cdi/x.yaml", exists=lambda _: False).missing == ()


@pytest.mark.parametrize(
    "bad",
    [
        replace(OTHER, broken="it has no kind"),
        replace(OTHER, readable=False),
        replace(OTHER, version="9.0.0", devices=("vendor.com/x=1",)),
    ],
)
def test_bad_file_of_another_vendor_stops_no_model(bad: CdiSpec) -> None:
    (one,) = found(SPEC, bad)
    assert one.level is Level.WARNING
    assert "Podman skips this file" in one.why
    assert [one.level for one in found(bad)].count(Level.PROBLEM) >= 1


def test_missing_files_of_another_vendor_and_its_clashes_are_no_matter() -> None:
    stale = replace(OTHER, devices=("vendor.com/x=1",), missing=("/dev/x",))
    assert found(SPEC, stale, replace(stale, path="/etc/cdi/vendor2.yaml")) == []


def test_version_names_file_and_versions_and_offers_no_other_cure() -> None:
    (one,) = found(replace(SPEC, version="0.7.0"))
    assert one.code == "cdi-version"
    assert (
        "Podman 4.9.3 cannot use /etc/cdi/nvidia.yaml: CDI 0.7.0, it reads up to 0.6.0" in one.what
    )
    assert "nvidia-container-toolkit=1.18.0-1" in one.fix
    gpu = Gpu(specs=(replace(SPEC, version="0.7.0"),), wanted=(ALL,))
    assert unresolved_reason(gpu, ENGINE) == one
    assert unresolved_reason(Gpu(specs=(SPEC,), wanted=(ALL,)), ENGINE) is None


def test_every_kind_of_file_is_read_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEXT)
    (tmp_path / "b.yaml").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "c.json")
    (tmp_path / "d.yaml").mkdir()
    (tmp_path / "e.yaml").symlink_to("/dev/zero")
    with open(tmp_path / "f.yaml", "wb") as file:
        file.truncate(100 << 20)
    (tmp_path / "g.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "h.txt").write_text(TEXT)
    specs = {Path(spec.path).name: spec for spec in host_facts.cdi_specs([tmp_path])}
    assert set(specs) == {f"{name}.yaml" for name in "abefg"} | {"c.json"}
    assert specs["a.yaml"].devices == (ALL,)
    assert specs["b.yaml"].dangling
    assert all(spec.broken for name, spec in specs.items() if name != "a.yaml")
    assert all(spec.readable for spec in specs.values())


def test_dangling_link_is_moved_away_and_not_made_readable() -> None:
    (one,) = found(SPEC, replace(OTHER, broken="it is a link", dangling=True))
    assert one.fix == "sudo mv /etc/cdi/vendor.yaml /etc/cdi/vendor.yaml.broken"


@pytest.mark.parametrize(
    "text",
    [
        "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
        'failed to inject devices: failed to stat CDI host device "/dev/nvidia0": no such file',
        "crun: error executing hook `/usr/bin/nvidia-ctk` (exit code: 1): OCI runtime error",
        "crun: cannot stat `/usr/lib/x86_64-linux-gnu/libcuda.so.550`: No such file or directory",
        "crun: executable file `/usr/bin/nvidia-cdi-hook` not found: No such file or directory",
        "crun: error stat'ing file `/usr/bin/nvidia-smi`: No such file or directory",
        "failed to inject CDI devices: conflicting device",
    ],
)
def test_everything_that_podman_says_of_devices_is_the_same_error(text: str) -> None:
    assert cdi.concerns_cdi(text)


@pytest.mark.parametrize(
    "text", ["no space left on device", "netavark: not found", "image not known", "cdimage"]
)
def test_other_words_of_podman_are_other_errors(text: str) -> None:
    assert not cdi.concerns_cdi(text)
