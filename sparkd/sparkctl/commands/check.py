# SPDX-License-Identifier: Apache-2.0
"""`sparkctl check`: all problems of the configuration in one run, as the daemon finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from sparkd.adapters.files.weight_files import layout_flaw
from sparkd.core.model import Config, Problem
from sparkd.core.quantities import count_of
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    privileges.read_as_sparkd()
    config = catalog.load()
    config = replace(config, problems=(*config.problems, *_weights_problems(config)))
    if options.json:
        output.print_json(as_json(config))
    else:
        print(text(config))
    return Exit.NO if config.problems else Exit.OK


def _weights_problems(config: Config) -> Iterator[Problem]:
    """The problems of weights on this host whose layout no container can read."""
    found = ((s, layout_flaw(one.path)) for s in config.models.values() for one in s.all_weights)
    for spec, flaw in found:
        if flaw is not None:
            source, _, line = spec.source.rpartition(":")
            yield Problem(
                source=source,
                line=int(line),
                path=f"models.{spec.model_id}.weights",
                message=flaw.message,
                hint=flaw.hint,
            )


def as_json(config: Config) -> dict[str, object]:
    return {
        "ok": not config.problems,
        "models": len(config.models),
        "broken": sorted(config.broken),
        "problems": [
            {
                "file": problem.source,
                "line": problem.line,
                "path": problem.path,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in config.problems
        ],
    }


def text(config: Config) -> str:
    """One line per problem, or a summary line when there are none."""
    if config.problems:
        return "\n".join(output.printable(str(problem)) for problem in config.problems)
    kinds = Counter(spec.lifecycle for spec in config.models.values())
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds))
    total = count_of(len(config.models), "model")
    return f"ok: {total} ({counts})" if counts else f"ok: {total}"
