# SPDX-License-Identifier: Apache-2.0
"""Recipes of images: every source is pinned, every patch fits or says so, every image has one."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.container.containerfile import LOCAL_PREFIX, Recipe, bases, recipe_name
from sparkd.core.errors import NotFound
from sparkd.core.model import Config, ModelSpec, Status
from sparkd.sparkctl.commands import build, images
from tests.unit.project.sources import ROOT

DIRECTORY = ROOT / "containerfiles"
FILES = sorted(DIRECTORY.glob("*/Containerfile"))
TEXTS = {file.parent.name: file.read_text() for file in FILES}
CATALOG = parse(
    [
        Source(kind=SourceKind.MODELS, name=str(path), text=path.read_text())
        for path in sorted((ROOT / "etc/models.d").glob("*.yaml"))
    ]
).models
MADE_BY_TESTS = {"localhost/sparkd-base:bookworm"}
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
PATCHES = sorted(DIRECTORY.glob("*/patches/*.py"))
names = pytest.mark.parametrize("name", TEXTS)


def recipe(name: str) -> Recipe:
    return Recipe(name=name, directory=f"/c/{name}", bases=bases(TEXTS[name]))


def test_every_local_image_of_the_catalog_has_a_recipe() -> None:
    wanted = {spec.image for spec in CATALOG.values() if spec.image.startswith(LOCAL_PREFIX)}
    assert wanted <= {recipe(name).image for name in TEXTS}
    assert all(
        DIGEST.fullmatch(spec.image)
        for spec in CATALOG.values()
        if not spec.image.startswith(LOCAL_PREFIX)
    )


@names
def test_every_base_is_named_by_digest_or_has_a_recipe(name: str) -> None:
    found = bases(TEXTS[name])
    assert found
    ours = {recipe(other).image for other in TEXTS} | MADE_BY_TESTS
    for base in found:
        assert base in ours or DIGEST.fullmatch(base), base
        assert "$" not in base


@names
def test_every_commit_is_whole_and_what_is_cloned_is_at_one(name: str) -> None:
    text = TEXTS[name]
    commits = dict(re.findall(r"^ARG (\w+_COMMIT)=(\S+)$", text, re.MULTILINE))
    assert all(COMMIT.fullmatch(commit) for commit in commits.values())
    used = set(re.findall(r"\$\{(\w+_COMMIT)\}", text))
    assert used == set(commits)
    assert text.count("git clone") == text.count("git checkout")
    for url in re.findall(r"git\+https://\S+", text):
        assert re.search(r"@\$\{\w+_COMMIT\}", url), url


@names
def test_every_package_of_pip_has_a_version_or_a_commit_or_was_built_before(name: str) -> None:
    lines = re.sub(r"\\\n", " ", TEXTS[name]).splitlines()
    for command in re.findall(
        r"pip (?:install|wheel) (.*?)(?:&&|$)", "\n".join(lines), re.MULTILINE
    ):
        words = re.findall(r'"[^"]*"|\S+', command)
        options = {"--requirement", "--find-links", "--wheel-dir", "--only-binary"}
        wanted = [
            word.strip('"')
            for before, word in zip(["", *words], words, strict=False)
            if not word.startswith("-") and before not in options
        ]
        for word in wanted:
            pinned = "==" in word or "@${" in word or word.startswith(("/wheels/", "."))
            assert pinned, word


@names
def test_hadolint_finds_nothing(name: str) -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert tool, "hadolint is in tests/requirements.txt"
    done = subprocess.run(
        [tool, str(DIRECTORY / name / "Containerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


LAYERS = "vllm/model_executor"
BEFORE = {
    "vllm/v1/core/block_pool.py": "for blk in x:\n    assert blk.block_hash is None\n",
    f"{LAYERS}/layers/fused_moe/fused_moe.py": "def k(stride_am: tl.int64): ...\n",
    "vllm/triton_utils/__init__.py": '__all__ = ["triton"]\n',
    f"{LAYERS}/models/qwen3_next.py": 'f(quant_config=None, prefix=f"{prefix}.gate")\n',
    "transformers/modeling_rope_utils.py": "received_keys -= ignore_keys\n",
    "vllm/v1/attention/backends/mla/triton_mla.py": (
        "if 1:\n        num_kv_splits = 1 if vllm_is_batch_invariant() else 4\n"
    ),
}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_patch_changes_what_it_knows_once_and_ends_the_build_otherwise(
    patch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    monkeypatch.syspath_prepend(str(DIRECTORY / "vllm-tf5"))
    for name, text in BEFORE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    runpy.run_path(str(patch))
    mended = {name: (tmp_path / name).read_text() for name in BEFORE}
    (changed,) = [name for name in BEFORE if mended[name] != BEFORE[name]]
    compile(mended[changed], changed, "exec")
    runpy.run_path(str(patch))
    assert {name: (tmp_path / name).read_text() for name in BEFORE} == mended
    if changed != "vllm/triton_utils/__init__.py" and "stride" not in mended[changed]:
        (tmp_path / changed).write_text("something else\n")
        with pytest.raises(SystemExit, match="is not as this patch expects it"):
            runpy.run_path(str(patch))


def test_every_patch_is_documented() -> None:
    text = (ROOT / "docs/reference/images.md").read_text()
    assert {patch.stem for patch in PATCHES} == set(re.findall(r"`(\d\d_\w+)`", text))


def test_stages_are_no_bases_and_arguments_are_put_in() -> None:
    text = "ARG A=x\nFROM ${A}/b@sha256:1 AS one\nFROM one\nFROM --platform=linux/arm64 $A:2\n"
    assert bases(text) == ("x/b@sha256:1", "x:2")
    assert bases("ARG A\nFROM ${A}\n") == ("${A}",)


@pytest.mark.parametrize(
    "text", ["vllm-cpu", "sparkd-vllm-cpu", "localhost/sparkd-vllm-cpu:latest"]
)
def test_an_image_may_be_named_by_its_recipe_or_in_full(text: str) -> None:
    assert recipe_name(text) == "vllm-cpu"


def test_an_unknown_image_is_refused_with_the_nearest() -> None:
    known = {name: recipe(name) for name in TEXTS}
    with pytest.raises(NotFound, match="no recipe") as caught:
        build.find(known, "vllm-mxpf4")
    assert caught.value.hint == "did you mean vllm-mxfp4?"


def test_a_base_that_is_missing_is_built_first_where_a_recipe_makes_it() -> None:
    known = {name: recipe(name) for name in TEXTS}
    for name, hint in {
        "vllm-glm47": "sudo sparkctl build vllm-tf5",
        "vllm-cpu": "no recipe makes it; /c/vllm-cpu says how to",
    }.items():
        (base,) = known[name].local_bases
        assert build.base_missing(known[name], base, known).hint == hint


def test_the_build_is_a_unit_that_is_waited_for_and_gets_the_options() -> None:
    words = build.command(recipe("vllm-glm47"), ("--network=none",))
    assert words[0] == "systemd-run"
    assert {"--user", "--wait", "--unit=sparkd-build-vllm-glm47.service"} <= set(words)
    assert words[words.index("--") + 1 :] == [
        *("podman", "build", "--tag", "localhost/sparkd-vllm-glm47:latest"),
        *("--network=none", "/c/vllm-glm47"),
    ]


def test_images_lists_who_needs_what_and_how_to_get_it() -> None:
    specs = [
        ModelSpec(model_id="a", image="localhost/sparkd-vllm:latest"),
        ModelSpec(model_id="b", image="localhost/other:1"),
        ModelSpec(model_id="c", image="docker.io/x/y:1"),
        ModelSpec(model_id="d", image="docker.io/x/z:1", status=Status.DISABLED),
    ]
    config = Config(models={spec.model_id: spec for spec in specs})
    known = {"vllm": recipe("vllm"), "vllm-cpu": recipe("vllm-cpu")}
    listed = images.listing(config, known, {"localhost/other:1": 2_000_000_000})
    got = {one.image: (one.models, one.present, one.get) for one in listed}
    assert got == {
        "docker.io/x/y:1": (("c",), False, "cd / && sudo -u sparkd podman pull docker.io/x/y:1"),
        "localhost/other:1": (("b",), True, None),
        "localhost/sparkd-vllm:latest": (("a",), False, "sudo sparkctl build vllm"),
        "localhost/sparkd-vllm-cpu:latest": ((), False, "sudo sparkctl build vllm-cpu"),
    }
    lines = images.text(listed).splitlines()
    assert lines[2].split() == ["localhost/other:1", "2.0", "GB", "b"]
    assert lines[-1] == "localhost/sparkd-vllm:latest: sudo sparkctl build vllm"
