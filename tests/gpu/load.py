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
from itertools import pairwise

from tests.bench.load import Exchange, Json, Wrong, connect, event_times, spread

ANSWER_LIMIT_S = 300.0
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d+)')


async def streams(job: Json) -> Json:
    """Open N connections, then ask for one stream on each at the same moment."""
    wrong, finished = Wrong(), asyncio.Event()
    waiting: set[Exchange] = set()

    def on_end(exchange: Exchange) -> None:
        waiting.discard(exchange)
        if not waiting:
            finished.set()

    request = job["request"].encode()
    exchanges = [await connect(job["target"], request, on_end) for _ in range(job["connections"])]
    waiting.update(exchanges)
    for exchange in exchanges:
        exchange.ask()
    async with asyncio.timeout(ANSWER_LIMIT_S):
        await finished.wait()
    first_ms, gaps_ms, tokens, events = [], [], 0, 0
    for exchange in exchanges:
        if not is_whole(exchange, job["tokens"]):
            wrong.note(exchange)
            continue
        # The first event has the role and no text.
        times = event_times(exchange)[1:]
        events += len(times)
        tokens += job["tokens"]
        first_ms.append((times[0] - exchange.sent_s) * 1e3)
        gaps_ms += [(after - before) * 1e3 for before, after in pairwise(times)]
    took_s = max(e.ended_s for e in exchanges) - min(e.sent_s for e in exchanges)
    for exchange in exchanges:
        exchange.close()
    return {
        "streams": len(exchanges) - wrong.count,
        "tokens": tokens,
        "events": events,
        "seconds": took_s,
        "tokens_per_s": tokens / took_s,
        "ttft_ms": spread(first_ms),
        "gap_ms": spread(gaps_ms),
        "wrong": wrong.count,
        "wrong_first": wrong.first,
    }


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
