# SPDX-License-Identifier: Apache-2.0
"""What the built package promises before it is installed: form, pages, the same bytes each time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sparkd._version import __version__

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("SPARKD_CACHE", Path.home() / ".cache/sparkd"))


def output(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """What a command printed, errors included; it must end well."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def built(tree: Path) -> Path:
    (deb,) = (tree / "dist").glob("sparkd_*_all.deb")
    return deb


@pytest.fixture(scope="module", autouse=True)
def deb() -> Path:
    output(ROOT / "packaging/build-deb.sh")
    return built(ROOT)


@pytest.fixture(scope="module")
def unpacked(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("unpacked")
    output("dpkg-deb", "-x", deb, tree)
    return tree


def test_lintian_finds_nothing_and_no_override_is_idle(deb: Path) -> None:
    strict = ("--pedantic", "--display-info", "--display-experimental")
    found = output("lintian", "--allow-root", *strict, "--fail-on=none", deb).splitlines()
    # The package is for systemd only. Lintian of Debian 12 finds that odd; that of Debian 13 knows
    # no such complaint any more, and complains of an override for it.
    gone = "package-supports-alternative-init-but-no-init.d-script"
    assert [line for line in found if gone not in line] == []


def test_every_command_unit_and_file_has_a_manual_page(unpacked: Path) -> None:
    pages = {path.name.removesuffix(".gz") for path in unpacked.glob("usr/share/man/man*/*")}
    units = [
        path.name
        for kind in ("system", "user")
        for path in (unpacked / "usr/lib/systemd" / kind).iterdir()
    ]
    programs = [path.name for path in unpacked.glob("usr/libexec/sparkd/*")]
    generators = [path.name for path in unpacked.glob("usr/lib/systemd/system-generators/*")]
    commands = [path.name for path in unpacked.glob("usr/bin/*")]
    settings = [path.name for path in unpacked.glob("etc/sparkd/*.yaml")]
    assert all((units, programs, commands, settings))
    wanted = {f"{name}.8" for name in [*units, *programs, *generators]}
    wanted |= {f"{name}.1" for name in commands} | {f"{name}.5" for name in settings}
    assert wanted <= pages


def test_manual_pages_read_without_a_warning_and_say_what_they_are(unpacked: Path) -> None:
    pages = [path for path in unpacked.glob("usr/share/man/man*/*") if not path.is_symlink()]
    assert pages
    for page in pages:
        text = output("man", "--warnings", "-l", page, LC_ALL="C.UTF-8", MANWIDTH="80")
        # So groff names what it complains of.
        assert "<standard input>" not in text
        assert "](" not in text, "a link came through as Markdown"
        lines = text.rstrip().splitlines()
        assert re.fullmatch(
            rf"sparkd {re.escape(__version__)} +\d{{4}}-\d\d-\d\d +\S+\(\d\)", lines[-1]
        )
        assert text.count("[") == text.count("]"), page
        assert max(map(len, lines[: lines.index("DESCRIPTION")])) <= 80
        for place in re.findall(r"/usr/share/doc/sparkd/docs/[\w./-]*\w", text):
            assert (unpacked / place.lstrip("/")).exists(), place
        for heading in ("NAME", "DESCRIPTION", "SEE ALSO"):
            assert f"\n{heading}\n" in text
        # What whatis(1) knows is the line that it can read out of the page.
        assert "nothing appropriate" not in output("lexgrog", page)


def test_manual_page_of_the_command_has_the_usual_sections_and_whole_headings(
    unpacked: Path,
) -> None:
    page = unpacked / "usr/share/man/man1/sparkctl.1.gz"
    text = output("man", "-l", page, LC_ALL="C.UTF-8", MANWIDTH="80")
    for heading in ("SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"):
        assert f"\n{heading}\n" in text
    assert "\nstop [--now] MODEL\n" in text
    assert "SPARKD_API_KEY" in text


def test_documentation_is_in_the_package_and_its_links_work_there(unpacked: Path) -> None:
    base = unpacked / "usr/share/doc/sparkd"
    pages = list(base.rglob("*.md"))
    assert {"README.md", "install.md", "troubleshooting.md", "security.md"} <= {
        p.name for p in pages
    }
    for page in pages:
        for place in re.findall(r"\]\(([^()\s#]+)", page.read_text()):
            assert ":" in place or (page.parent / place).exists(), (page.name, place)


def test_same_sources_make_the_same_bytes_elsewhere_later_and_under_another_umask(
    deb: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another" / "place"
    listed = output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, elsewhere / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
            copy.chmod(source.stat().st_mode & 0o700, follow_symlinks=copy.is_file())
            os.utime(copy, (1, 1), follow_symlinks=False)
    cache = tmp_path / "cache"
    cache.mkdir()
    for wheels in CACHE.glob("wheels-*"):
        (cache / wheels.name).symlink_to(wheels)

    build = "umask 077; exec packaging/build-deb.sh"
    environ = {"SPARKD_CACHE": str(cache), "TZ": "Pacific/Kiritimati", "LC_ALL": "C"}
    output("bash", "-c", build, cwd=elsewhere, **environ)

    assert built(elsewhere).read_bytes() == deb.read_bytes()


def sbom(unpacked: Path) -> dict[str, dict[str, Any]]:
    """The packages that the list names, by the names with which package managers know them."""
    document = json.loads((unpacked / "usr/share/doc/sparkd/sbom.spdx.json").read_text())
    refs = {one["SPDXID"]: one for one in document["packages"]}
    related = {one["relatedSpdxElement"] for one in document["relationships"]}
    assert set(refs) == related, "each is described, contained or depended on"
    return {
        one["externalRefs"][0]["referenceLocator"]: one
        for one in refs.values()
        if one["name"] != "sparkd"
    }


def test_list_of_parts_has_every_carried_wheel_with_hash_and_licence(unpacked: Path) -> None:
    listed = {
        name: one["checksums"][0]["checksumValue"]
        for name, one in sbom(unpacked).items()
        if name.startswith("pkg:pypi/")
    }
    pinned = re.findall(
        r"^(\S+)==(\S+) .*\n.*sha256:(\w+)$",
        (ROOT / "packaging/vendor.txt").read_text(),
        re.MULTILINE,
    )
    assert listed == {f"pkg:pypi/{name}@{version}": digest for name, version, digest in pinned}
    carried = {path.name for path in unpacked.glob("usr/lib/sparkd/*.dist-info")}
    names = {f"{name.replace('-', '_')}-{version}.dist-info" for name, version, _ in pinned}
    assert carried == names
    licences = {one["licenseConcluded"] for one in sbom(unpacked).values() if "checksums" in one}
    assert licences == {"Apache-2.0", "MIT"}


def test_list_of_parts_has_every_dependency(deb: Path, unpacked: Path) -> None:
    depends = output("dpkg-deb", "-f", deb, "Depends")
    names = {one.split()[0].split(":")[0] for one in re.split(r"[,|]", depends)}
    listed = {name for name in sbom(unpacked) if name.startswith("pkg:deb/")}
    assert listed == {f"pkg:deb/debian/{name}" for name in names}


def test_copyright_names_whoever_the_carried_wheels_name() -> None:
    copyright_ = (ROOT / "packaging/debian/copyright").read_text()
    wheels = [path for place in CACHE.glob("wheels-*") for path in place.glob("*.whl")]
    assert wheels
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            texts = [
                archive.read(name).decode() for name in archive.namelist() if "LICENSE" in name
            ]
        for holder in re.findall(r"^Copyright (?:\(c\) )?(\d.*)$", "\n".join(texts), re.MULTILINE):
            assert holder in copyright_, wheel.name
