# SPDX-License-Identifier: Apache-2.0
"""Targets for texts of hubs and vendors, and for the words that an entry passes to its engine."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Final, Never

from sparkd.core.config.model_subkeys import RESERVED_ARGS
from sparkd.core.diagnosis import cdi
from sparkd.core.diagnosis.facts import Engine, Gpu
from sparkd.core.diagnosis.gpu import gpu_findings
from sparkd.core.engine import arguments as engine_arguments
from sparkd.core.errors import SparkdError
from sparkd.core.weights import hub, weight_set
from sparkd.core.weights import hub_listing as listing
from sparkd.core.weights import hub_refusal as refusals

from .clear import assert_clear


def hub_listing(data: bytes) -> None:
    """A listing is refused in one line, or its files stay below their directory; so is a record."""
    text = data.decode(errors="replace")
    try:
        found = listing.parse_listing("org/name", text)
    except SparkdError as error:
        assert_clear(error.message)
    else:
        assert listing.parse_record(hub.record(found)) == found
        for file in found.files:
            assert os.path.normpath(f"/a/{file.path}") == f"/a/{file.path}"
            assert 0 <= file.size_bytes <= listing.MAX_TOTAL_BYTES
        with contextlib.suppress(SparkdError):
            chosen = weight_set.choose("org/name", found.files)
            assert len(chosen.files) + len(chosen.left_out) == len(found.files)
    listing.parse_record(text)


def hub_refusal(data: bytes) -> None:
    """A refusal is one short line, and the pause that it asks for is bounded."""
    lines = data.decode("latin-1").split("\n")
    names = ("retry-after", "ratelimit", "ratelimit-reset", "x-ratelimit-reset", "x-error-message")
    headers = dict(zip((*names, "x-error-code"), lines, strict=False))
    asked = refusals.Asked(what="w", host="h")
    for status in (401, 403, 404, 418, 429, 503):
        error = refusals.refusal(status, headers, asked, 1.7e9)
        assert_clear(error.message)
        assert len(error.message) < 500
        assert 0 <= (error.retry_after_s or 0) <= 366 * 86400


def cdi_file(data: bytes) -> None:
    """Any text describes devices, or is broken with a reason."""
    spec = cdi.parse(data.decode(errors="replace"), "/etc/cdi/x.yaml", exists=lambda _: False)
    assert bool(spec.broken) != bool(spec.devices)
    wanted = Gpu(specs=(spec,), wanted=("nvidia.com/gpu=all",))
    for found in gpu_findings(wanted, Engine(socket_state="active", version=(4, 9, 3))):
        assert_clear(found.what)


class _Argparse(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ValueError(message)


def _engine_parser() -> _Argparse:
    parser = _Argparse(add_help=False)
    for name in RESERVED_ARGS:
        parser.add_argument(f"--{name}", nargs="?", const=True, default=None)
        # vLLM has several options for each first letter.
        with contextlib.suppress(argparse.ArgumentError):
            parser.add_argument(f"--{name[0]}", dest="other", nargs="?", default=None)
    return parser


ENGINE_PARSER: Final = _engine_parser()


def arguments(data: bytes) -> None:
    """A word that an engine's parser takes for an option of sparkd's never passes."""
    for word in data.decode(errors="replace").split("\n"):
        written = engine_arguments.written_option(word)
        # As vLLM does before it parses.
        name, equals, value = word.partition("=")
        dashed = name.replace("_", "-") + equals + value if word.startswith("--") else word
        try:
            taken, _ = ENGINE_PARSER.parse_known_args([dashed])
        except ValueError:
            continue
        if any(value is not None for key, value in vars(taken).items() if key != "other"):
            assert written is not None
            assert engine_arguments.reserved_option(written, RESERVED_ARGS) is not None
