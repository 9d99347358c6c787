# SPDX-License-Identifier: Apache-2.0
"""Links in weights work in the container, or are named before a start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparkd.adapters.files.weight_files import layout_flaw, sealed_file
from sparkd.core.container.spec import container_spec, spec_hash
from sparkd.core.errors import NotPresent
from sparkd.core.model import ModelSpec, Weights
from sparkd.core.names import Layout
from sparkd.lifecycle.start.presence import check_files
from sparkd.sparkctl import main
from sparkd.sparkctl.exit_codes import Exit

LAYOUT = Layout()
UP = "../"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A repository of Hugging Face's cache; the other one beside it is not this model's."""
    repository = tmp_path / "hub/models--Org--Name"
    for name in ("aa", "bb"):
        (repository / "blobs").mkdir(parents=True, exist_ok=True)
        (repository / "blobs" / name).write_text("{}")
    snapshot = repository / "snapshots/rev1"
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    (snapshot / "sub/x.json").symlink_to(f"{UP * 3}blobs/bb")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("rev1")
    (tmp_path / "hub/models--Org--Other/blobs").mkdir(parents=True)
    (tmp_path / "hub/models--Org--Other/blobs/cc").write_text("{}")
    return snapshot


def model(path: Path) -> ModelSpec:
    return ModelSpec(model_id="m", image="localhost/x", weights=Weights(path=path))


def test_snapshot_of_a_cache_is_served_from_its_repository(cache: Path) -> None:
    spec = container_spec(model(cache), LAYOUT)
    (mount,) = (one for one in spec.mounts if one.target.startswith("/models"))
    assert (mount.source, mount.target) == (str(cache.parents[1]), "/models/m")
    assert mount.read_only
    assert "/models/m/snapshots/rev1" in spec.command
    assert layout_flaw(cache) is None
    check_files(model(cache), LAYOUT)
    # The files as the container sees them: the mounted directory under another name.
    root = cache.parents[1].rename(cache.parents[3] / "elsewhere")
    assert (root / "snapshots/rev1/sub/x.json").read_text() == "{}"


def test_weights_in_a_plain_directory_are_mounted_as_before() -> None:
    for path in ("/srv/w", "/srv/snapshots/w", "/srv/models--a--b/w", "/srv/models--a--b"):
        spec = container_spec(model(Path(path)), LAYOUT)
        assert (path, "/models/m") in {(one.source, one.target) for one in spec.mounts}
        assert "/models/m" in spec.command


def test_two_snapshots_of_a_repository_are_two_specs() -> None:
    base = Path("/srv/models--a--b/snapshots")
    assert spec_hash(model(base / "x"), LAYOUT) != spec_hash(model(base / "y"), LAYOUT)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/etc/hostname", "leaves the directory"),
        (f"{UP * 3}models--Org--Other/blobs/cc", "leaves the directory"),
        (f"{UP * 3}models--Org--Name/blobs/aa", "leaves the directory"),
        (f"{UP * 4}outside", "leaves the directory"),
        ("../../blobs/gone", "does not exist"),
        ("loop", "does not exist"),
        ("../../absolute", "leaves the directory"),
    ],
)
def test_link_that_a_container_cannot_follow_is_named(cache: Path, target: str, said: str) -> None:
    (cache.parents[1] / "absolute").symlink_to(cache.parents[1] / "blobs/aa")
    (cache / "loop").symlink_to("loop") if target == "loop" else None
    (cache / "model.safetensors").symlink_to(target)
    found = layout_flaw(cache)
    assert found
    assert said in found.message
    with pytest.raises(NotPresent) as raised:
        check_files(model(cache), LAYOUT)
    assert raised.value.code == "weights_misplaced"
    assert str(cache) in raised.value.message


def test_links_that_stay_inside_are_fine_in_any_directory(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    (weights / "blobs").mkdir(parents=True)
    (weights / "blobs/a").write_text("x")
    (weights / "a").symlink_to("blobs/a")
    (weights / "dir").symlink_to("blobs")
    (weights / "b").symlink_to("./dir/../blobs//a")
    (weights / ".cache").symlink_to("/nowhere")
    assert layout_flaw(weights) is None
    assert layout_flaw(tmp_path / "gone") is None


def test_directory_whose_links_leave_it_has_a_copy_as_cure(tmp_path: Path) -> None:
    weights, store = tmp_path / "w", tmp_path / "store"
    for directory in (weights, store):
        directory.mkdir()
    (store / "a").write_text("x")
    (weights / "a").symlink_to("../store/a")
    found = layout_flaw(weights)
    assert found
    assert f"sudo cp -rL {weights} {weights}.copy" in found.hint


def test_link_to_a_snapshot_and_a_repository_lead_to_the_snapshot(cache: Path) -> None:
    link = cache.parents[3] / "w"
    link.symlink_to(cache)
    for path in (link, cache.parents[1]):
        found = layout_flaw(path)
        assert found
        assert found.hint == f"write weights: {{path: {cache}}}"
    (cache.parents[1] / "refs/main").write_text("../../x")
    assert layout_flaw(cache.parents[1]) == found


def test_sealed_file_below_a_directory_is_found(tmp_path: Path) -> None:
    assert sealed_file(tmp_path) is None
    if os.geteuid() != 0:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/x").write_text("")
        (tmp_path / "sub/x").chmod(0)
        assert sealed_file(tmp_path) == tmp_path / "sub/x"


def test_check_and_show_name_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w"
    weights.mkdir()
    (weights / "a").symlink_to("/etc/hostname")
    (tmp_path / "models.d").mkdir()
    entry = f"models:\n  m: {{image: localhost/x, weights: {{path: {weights}}}}}\n"
    (tmp_path / "models.d/a.yaml").write_text(entry)
    for name in ("CONFIG", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"SPARKD_{name}_DIR", str(tmp_path))
    monkeypatch.setenv("SPARKD_CATALOG_DIR", str(tmp_path / "none"))
    assert main.main(["check"]) == Exit.NO
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/models.d/a.yaml:2: models.m.weights: {weights}/a links to")
    assert main.main(["show", "m", "--json"]) == Exit.OK
    assert "leaves the directory" in json.loads(capsys.readouterr().out)["weights"]["flaw"]
