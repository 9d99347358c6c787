# SPDX-License-Identifier: Apache-2.0
"""The parts that a model needs on this host, the missing ones, and the refusal that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from sparkd.core.errors import HostError, NotPresent, SparkdError
from sparkd.core.model import ModelSpec


class Part(StrEnum):
    """A thing that a start of a model takes from the host."""

    WEIGHTS = "weights"
    FILE = "file"
    IMAGE = "image"
    GPU = "gpu"


class Local(StrEnum):
    """Whether a model is on this host, the GPU aside."""

    YES = "yes"
    PARTIAL = "partial"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One part that is missing or cannot be read, and the command that gets it."""

    http_status: ClassVar[int] = NotPresent.http_status
    part: Part
    code: str
    text: str
    """As in `the image x is missing`."""
    hint: str


def local(spec: ModelSpec, missing: Sequence[Missing]) -> Local:
    """How much of the model is on this host."""
    lacking = [one for one in missing if one.part is not Part.GPU]
    if not lacking:
        return Local.YES
    parts = 1 + len(spec.all_weights) + len(spec.files)
    return Local.NO if len(lacking) >= parts else Local.PARTIAL


def described(missing: Sequence[Missing]) -> list[dict[str, str]]:
    """The same for JSON."""
    return [{"what": one.part, "code": one.code, "hint": one.hint} for one in missing]


def refusal(model_id: str, missing: Sequence[Missing]) -> SparkdError:
    """The error that names everything that is missing, with the commands that get it."""
    first = missing[0]
    alone = len(missing) == 1
    text = f"model {model_id!r} cannot start: {'; '.join(one.text for one in missing)}"
    hint = "; ".join(dict.fromkeys(one.hint for one in missing))
    if alone and first.part is Part.GPU:
        return HostError(text, hint=hint, code=first.code)
    error = NotPresent(text, hint=hint, code=first.code if alone else None)
    error.details = {"missing": described(missing)}
    return error
