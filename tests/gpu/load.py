# SPDX-License-Identifier: Apache-2.0
"""The load generator for a real engine: N streams begun at once, each token of them counted.

Like tests/bench/load.py, whose connections it uses: a process of its own in the host's network,
one job a line on stdin, one result a line on stdout. A real engine does not say what one wants to
hear, so an answer is right when it has the number of tokens that was asked for, and its end mark.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

from tests.bench.load import Exchange, Json, asked_together, streamed

ANSWER_LIMIT_S = 300.0
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d+)')


async def streams(job: Json) -> Json:
    """Open N connections, then ask for one stream on each at the same moment."""
    exchanges = await asked_together(job, limit_s=ANSWER_LIMIT_S)
    # The first event has the role and no text.
    told = streamed(exchanges, lambda one: is_whole(one, job["tokens"]), textless=1)
    tokens = told["streams"] * job["tokens"]
    return {**told, "tokens": tokens, "tokens_per_s": tokens / told["seconds"]}


def is_whole(exchange: Exchange, tokens: int) -> bool:
    """Whether the stream is complete: its usage says so, and its end mark is there."""
    body = b"".join(exchange.parts)
    counted = _COMPLETION.findall(body)
    return (
        exchange.status == 200
        and bool(counted)
        and int(counted[-1]) == tokens
        and body.endswith(b"data: [DONE]\n\n")
    )


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = asyncio.run(streams(job))
        except (OSError, TimeoutError) as error:
            result = {"wrong": 1, "wrong_first": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
