# SPDX-License-Identifier: Apache-2.0
"""`sparkctl models`: the catalog, with the state of each model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sparkd.core.catalog.presence import Missing, described, local
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, Status
from sparkd.core.model_state import State
from sparkd.core.observed import Snapshot
from sparkd.core.quantities import count_of
from sparkd.runtime import build
from sparkd.sparkctl import catalog, output, privileges, reading
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

Survey = Mapping[str, Sequence[Missing]]
"""The parts that each model lacks on this host."""

UNKNOWN = "unknown"
"""The placeholder for a state that could not be read."""
_HEADER = ("MODEL", "LOCAL", "LIFECYCLE", "STATE", "STATUS", "CONTEXT", "DIALECTS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One model of the catalog, as in the JSON output."""

    id: str
    lifecycle: str | None
    """None when the entry is broken, like all other values from the entry."""
    local: str
    """Presence of its weights, files and image on this host: yes, partial, no."""
    missing: list[dict[str, str]]
    state: str
    status: str | None
    """The extent to which the model has been proven."""
    reason: str | None
    dialects: tuple[str, ...]
    max_model_len: int | None
    aliases: tuple[str, ...]
    """Further names for the model."""
    adapters: tuple[str, ...]
    """The ids of its LoRA adapters."""
    problem: str | None
    """The first problem of the entry."""


def run(options: Options) -> Exit:
    privileges.read_as_sparkd()
    config = catalog.load()
    snapshot, error = reading.try_read_snapshot(config, options.words)
    listed = listing(config, snapshot, asyncio.run(build().presence.survey(config)))
    shown = [one for one in listed if options.all or one.status != Status.DISABLED]
    if options.json:
        output.print_json([asdict(one) for one in shown])
    else:
        print(text(shown, hidden=len(listed) - len(shown)))
    if error is not None:
        output.print_error(states_unknown(error))
    return Exit.OK


def listing(config: Config, snapshot: Snapshot | None, survey: Survey) -> list[Listed]:
    """The models of the catalog by id; without a snapshot their states are unknown."""
    return [
        _listed(config, snapshot, model_id, survey.get(model_id, ()))
        for model_id in catalog.names(config)
    ]


def text(listed: Sequence[Listed], *, hidden: int = 0) -> str:
    """The table for people, followed by the problems and the number of hidden models."""
    if not listed and not hidden:
        return "the catalog is empty: put a file into /etc/sparkd/models.d"
    rows = [
        (
            one.id,
            one.local,
            one.lifecycle or output.NOTHING,
            one.state,
            one.status or output.NOTHING,
            str(one.max_model_len or output.NOTHING),
            ",".join(one.dialects) or output.NOTHING,
        )
        for one in listed
    ]
    problems = [
        f"{one.id} cannot be started: {output.printable(one.problem)}"
        for one in listed
        if one.problem
    ]
    disabled = [
        f"{one.id} is disabled: {output.printable(one.reason or '')}"
        for one in listed
        if one.status == Status.DISABLED
    ]
    if hidden:
        disabled = [f"{count_of(hidden, 'disabled model')} not shown: sparkctl models --all"]
    return "\n".join([output.table(_HEADER, rows), *problems, *disabled])


def states_unknown(error: SparkdError) -> SparkdError:
    """The error to print with a listing whose states could not be read."""
    return SparkdError(f"states are unknown: {error.message}", hint=error.hint)


def _listed(
    config: Config, snapshot: Snapshot | None, model_id: str, missing: Sequence[Missing]
) -> Listed:
    spec = config.models.get(model_id)
    broken = config.broken.get(model_id)
    return Listed(
        id=model_id,
        lifecycle=spec.lifecycle if spec else None,
        local=local(spec, missing) if spec else UNKNOWN,
        missing=described(missing),
        state=_state(snapshot, model_id),
        status=spec.status if spec else None,
        reason=(spec.reason or None) if spec else None,
        dialects=spec.dialects if spec else (),
        max_model_len=spec.max_model_len if spec else None,
        aliases=spec.aliases if spec else (),
        adapters=spec.adapter_names if spec else (),
        problem=str(broken[0]) if broken else None,
    )


def _state(snapshot: Snapshot | None, model_id: str) -> str:
    if snapshot is None:
        return UNKNOWN
    # A model without a reading has not run since the host booted.
    found = snapshot.models.get(model_id)
    return found.state if found else State.STOPPED
