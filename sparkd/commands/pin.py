# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pin` and `sparkctl unpin`: keep a model when it is idle, until the next boot.

A pin is a file that idle passes look at, so it needs no daemon and holds from the next pass on. It
starts nothing, and a model that has to make room for another goes all the same. For good, the
catalog's `pinned: true` says the same.
"""

from __future__ import annotations

from sparkd.commands import catalog, identity, output
from sparkd.commands.arguments import Options
from sparkd.commands.exits import Exit
from sparkd.core.model import ModelSpec
from sparkd.runtime import build


def pin(options: Options) -> Exit:
    spec, records = _prepared(options), build().records
    records.pin(spec.model_id)
    return _told(options, spec, pinned=True)


def unpin(options: Options) -> Exit:
    spec, records = _prepared(options), build().records
    records.unpin(spec.model_id)
    return _told(options, spec, pinned=spec.pinned)


def text(spec: ModelSpec, *, pinned: bool, wanted: bool) -> str:
    if pinned and not wanted:
        return f"{spec.model_id} stays pinned: its entry says so ({spec.source})"
    return (
        f"{spec.model_id} is pinned until the next boot"
        if pinned
        else f"{spec.model_id} is not pinned"
    )


def _prepared(options: Options) -> ModelSpec:
    identity.act_as_sparkd(options.words)
    return catalog.find(catalog.load(), options.model)


def _told(options: Options, spec: ModelSpec, *, pinned: bool) -> Exit:
    if options.json:
        output.print_json({"id": spec.model_id, "pinned": pinned})
    else:
        print(text(spec, pinned=pinned, wanted=options.command == "pin"))
    return Exit.OK
