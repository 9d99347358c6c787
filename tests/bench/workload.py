# SPDX-License-Identifier: Apache-2.0
"""The parameters of a run: the number, rate and models of the requests."""

MODEL = "bench"
SHORT_LIVED = "bench-short"
SHORT_LIVED_IDLE_S = 5.0
OTHERS = tuple(f"bench-other-{number}" for number in range(5))
CATALOG_FILE = "/etc/sparkd/models.d/bench.yaml"
CATALOG = f"""\
defaults:
  image: localhost/sparkd-fake-vllm:latest
  weights: none
  max_model_len: 8192
  args: [--fake-load-seconds, 0.5]
  dialects: [chat]
models:
  # No idle stop comes between.
  {MODEL}: {{idle_timeout: 2h}}
  {SHORT_LIVED}: {{idle_timeout: {SHORT_LIVED_IDLE_S:.0f}s}}
""" + "".join(f"  {other}: {{idle_timeout: 2h}}\n" for other in OTHERS)
SETTINGS_FILE = "/etc/sparkd/sparkd.yaml"
SWAP_SETTINGS = "min_residency: 0s\n"
"""A model that was just loaded would stay for a while, and a swap would be a wait."""
WAIT_SETTINGS = "max_wait: 30m\nqueue_limit: 4096\n"
"""Nobody takes the place of the model that is measured."""

ROUNDS = 3
COLD_STARTS = 5
IDLE_S = 20.0
SETTLE_S = 2.0
SINGLE_REQUESTS = 1500
BUSY_CONNECTIONS = (32, 256)
BUSY_S = 3.0
WARM_S = 0.5
SWAPS = 8
CROWD = 1000
CROWD_CONNECTIONS = 32
BIG_BODY_BYTES = 1 << 20
BIG_REQUESTS = 100
STREAM_TOKENS = 100
STREAMS = {64: 20, 256: 10}
"""So many at once, and how many milliseconds each waits from one token to the next."""
CROWDED_STREAMS = 256
"""From so many on, gateways that are known to be slow are left out."""
