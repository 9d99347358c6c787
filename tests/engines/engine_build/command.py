# SPDX-License-Identifier: Apache-2.0
"""The command line: what can be built, and what is printed.

Progress goes to stderr and the paths of the results, one a line, to stdout. How each thing is
built is in the module of its name.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nspawn_host.console import HostError
from nspawn_host.roottree import Suite

from . import base, fake, llamacpp, vllm, weights

TERMINATED = 128 + signal.SIGTERM

PRODUCTS: dict[str, Callable[[Suite], Path]] = {
    "base": lambda _suite: base.tarball(),
    "fake": lambda _suite: fake.archive(),
    "vllm": vllm.archive,
    "llama": lambda _suite: llamacpp.archive(),
    "gguf": lambda _suite: llamacpp.weights(),
    "model": lambda _suite: weights.directory(),
}


def main() -> int:
    options = _parser().parse_args()
    # By an exception, so that a build host is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    names = list(PRODUCTS) if options.what == "all" else [options.what]
    try:
        for name in names:
            print(PRODUCTS[name](options.suite), flush=True)
    except HostError as error:
        print(f"build: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build", description="Build an engine for the test hosts, unless it is in the cache."
    )
    parser.add_argument(
        "what",
        choices=[*PRODUCTS, "all"],
        help="base: the root tree of the images; fake, vllm, llama: image archives for podman"
        " load; model, gguf: directories of weights",
    )
    parser.add_argument(
        "--suite",
        type=Suite,
        choices=[*Suite],
        default=Suite.TRIXIE,
        help="the Debian of the host that builds the vllm image (default: %(default)s)",
    )
    return parser
