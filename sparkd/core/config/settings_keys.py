# SPDX-License-Identifier: Apache-2.0
"""The keys of sparkd.yaml, one row each.

The parser, docs/reference/configuration.md and etc/sparkd.yaml follow these rows, so that a setting
is added here and nowhere else. The keys of models are in `core.config.model_keys`.
"""

from __future__ import annotations

from typing import Final

from sparkd.core.access.cors import ORIGIN
from sparkd.core.config.kinds import (
    AllOrNone,
    Choice,
    Count,
    Duration,
    Flag,
    Key,
    Names,
    Size,
    Text,
    Texts,
    table,
)
from sparkd.core.model import AbandonedLoads, KeepAlive, LogRequests, MetricsAccess, WhenBusy

_SECOND = 1.0
_MINUTE = 60.0
_HOUR = 3600.0
_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

IDLE_TIMEOUT = Duration(_SECOND, 168 * _HOUR)
LOAD_TIMEOUT = Duration(_SECOND, 24 * _HOUR)
_MODEL_NAME = AllOrNone(
    wanted_text="a model",
    pattern=r"\S{1,128}",
    hint="sparkctl models lists the models",
    limits_text="id or alias of a model, or none",
    numbers_too=True,
)
STOP_GRACE = Duration(_SECOND, 10 * _MINUTE)

SETTINGS_KEYS: Final = table(
    Key(
        name="idle_exit",
        field="idle_exit_s",
        kind=Duration(_SECOND, 24 * _HOUR),
        doc="How long the gateway stays when no request is open and no model runs.",
    ),
    Key(
        name="drain_timeout",
        field="drain_timeout_s",
        kind=Duration(0, 10 * _MINUTE),
        doc="How long open responses may continue after the gateway was told to stop.",
    ),
    Key(
        name="body_limit",
        field="body_limit_bytes",
        kind=Size(_KIB, _GIB),
        doc="The largest request body that is taken.",
    ),
    Key(
        name="bodies_limit",
        field="bodies_limit_bytes",
        kind=Size(_KIB, 64 * _GIB),
        doc="The memory that the bodies of all open requests may take together, at least "
        "body_limit; further bodies are refused with 503.",
    ),
    Key(
        name="idle_timeout",
        field="idle_timeout_s",
        kind=IDLE_TIMEOUT,
        doc="How long a model stays after its last use, for models that do not say.",
    ),
    Key(
        name="load_timeout",
        field="load_timeout_s",
        kind=LOAD_TIMEOUT,
        doc="How long a model may take to become healthy, for models that do not say.",
    ),
    Key(
        name="stop_grace",
        field="stop_grace_s",
        kind=STOP_GRACE,
        doc="How long a model may take to end before it is killed, for models that do not say.",
    ),
    Key(
        name="busy",
        field="busy",
        kind=Choice(WhenBusy),
        doc="The answer to a request whose model cannot run yet: wait, or reject it with 429 at "
        "once.",
    ),
    Key(
        name="abandoned_loads",
        field="abandoned_loads",
        kind=Choice(AbandonedLoads),
        doc="The end of a load for which no request waits any more: finish it, or stop it.",
    ),
    Key(
        name="max_wait",
        field="max_wait_s",
        kind=Duration(0, 24 * _HOUR),
        doc="How long requests wait for a model that others use before that one is drained.",
    ),
    Key(
        name="min_residency",
        field="min_residency_s",
        kind=Duration(0, 24 * _HOUR),
        doc="How long a model that became ready stays, idle or not, before another may replace it.",
    ),
    Key(
        name="queue_limit",
        field="queue_limit",
        kind=Count(1, 100_000),
        doc="How many requests may wait; one more is refused with 429.",
    ),
    Key(
        name="queue_timeout",
        field="queue_timeout_s",
        kind=Duration(_SECOND, 24 * _HOUR),
        doc="How long a request may wait for its model, loads of others included.",
    ),
    Key(
        name="hang_timeout",
        field="hang_timeout_s",
        kind=Duration(5 * _SECOND, 24 * _HOUR),
        doc="How long a model with open requests may make no step before it is killed as hung.",
    ),
    Key(
        name="memory_reserve",
        field="memory_reserve_bytes",
        kind=Size(0, _TIB),
        doc="Memory that is never given to models.",
    ),
    Key(
        name="memory_floor",
        field="memory_floor_bytes",
        kind=Size(0, _TIB),
        doc="While a model loads and less than this is available, it is killed.",
    ),
    Key(
        name="drop_caches_below",
        field="drop_caches_below_bytes",
        kind=Size(0, _TIB),
        doc="While a model loads and less than this is available, the page cache is dropped.",
    ),
    Key(
        name="preload",
        field="preload",
        kind=Names(),
        doc="Models that sparkd-preload.service starts; enable it to have them at boot.",
    ),
    Key(
        name="hub",
        field="hub",
        kind=Text(
            wanted_text="an address",
            pattern=r"https?://[^\s/@]+(?:/\S*)?",
            hint="write https://HOST",
            limits_text="http or https",
        ),
        doc="The model hub from which `sparkctl pull` fetches; `HF_ENDPOINT` moves it for one "
        "command.",
    ),
    Key(
        name="keep_alive",
        field="keep_alive",
        kind=Choice(KeepAlive),
        doc="The form of keep-alives in event streams: an empty chunk of the dialect, a comment, "
        "or none (off).",
    ),
    Key(
        name="log_output",
        field="log_output",
        kind=Flag(),
        doc="Whether the journal keeps the output of models, for models without a log_output.",
    ),
    Key(
        name="log_requests",
        field="log_requests",
        kind=Choice(LogRequests),
        doc="Which inference requests get a line in the journal: all, only errors, or none.",
    ),
    Key(
        name="metrics_access",
        field="metrics_access",
        kind=Choice(MetricsAccess),
        doc="Access to /metrics: with a key, or open.",
    ),
    Key(
        name="cors_origins",
        field="cors_origins",
        kind=Texts(
            pattern=ORIGIN,
            item="an origin",
            limits_text="SCHEME://HOST, with :PORT, :* for any port, * for any host, *.DOMAIN for "
            "its subdomains; null; file://; or *",
        ),
        doc="Pages of which origins a browser lets use the gateway; they need a key all the same.",
    ),
    Key(
        name="default_model",
        field="default_model",
        kind=_MODEL_NAME,
        doc="The model for requests that name `auto` or `default`.",
    ),
    Key(
        name="small_model",
        field="small_model",
        kind=_MODEL_NAME,
        doc="The model for requests that name `small`, for titles and summaries.",
    ),
)
