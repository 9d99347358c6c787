# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pin` and `sparkctl unpin`: keep a model when it is idle, until the next boot.

A pin is a file that idle passes check, so it needs no daemon and takes effect at the next pass. It
starts no model, and a pinned model still has to make room for another. The catalog's
`pinned: true` pins a model permanently.
"""

from __future__ import annotations

from sparkd.core.model import ModelSpec
from sparkd.runtime import build
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    spec, records = catalog.find(catalog.load(), options.model), build().records
    wanted = options.command == "pin"
    if wanted:
        records.pin(spec.model_id)
    else:
        records.unpin(spec.model_id)
    pinned = wanted or spec.pinned
    if options.json:
        output.print_json({"id": spec.model_id, "pinned": pinned})
    else:
        print(text(spec, pinned=pinned, wanted=wanted))
    return Exit.OK


def text(spec: ModelSpec, *, pinned: bool, wanted: bool) -> str:
    if pinned and not wanted:
        return f"{spec.model_id} stays pinned: its entry says so ({spec.source})"
    return (
        f"{spec.model_id} is pinned until the next boot"
        if pinned
        else f"{spec.model_id} is not pinned"
    )
