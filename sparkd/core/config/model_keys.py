# SPDX-License-Identifier: Apache-2.0
"""The keys of an entry in models.d, one row each.

The parser and docs/reference/configuration.md follow these rows, so that a key is added here and
nowhere else; what stands below a key is in `core.config.model_subkeys`, the keys of sparkd.yaml in
`settingstable`. How rows are read is `core.config.kinds` and `core.config.model_kinds`, what is
made of them `core.config.load`.
"""

from __future__ import annotations

from typing import Final

from sparkd.core.config.kinds import (
    AllOrNone,
    Choice,
    Choices,
    Count,
    Flag,
    Key,
    Names,
    Size,
    Text,
    table,
)
from sparkd.core.config.model_kinds import (
    Adapters,
    Arguments,
    Clients,
    EngineChoice,
    Environment,
    Files,
    Lines,
    WeightsChoice,
)
from sparkd.core.config.model_subkeys import (
    CLIENT_KEYS,
    ENGINE_KEYS,
    FILE_KEYS,
    RESERVED_ARGS,
    RESERVED_ENV,
    WEIGHTS_KEYS,
)
from sparkd.core.config.settings_keys import IDLE_TIMEOUT, LOAD_TIMEOUT, STOP_GRACE
from sparkd.core.model import Dialect, Evict, Lifecycle, Rewrite, Status, Transport

_MIB, _TIB = 1 << 20, 1 << 40

MODEL_KEYS: Final = table(
    Key(
        name="image",
        field="image",
        kind=Text(
            wanted_text="a full image name",
            pattern=r"(?:(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::[0-9]+)?|[a-z0-9-]+:[0-9]+)"
            r"(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+"
            r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
            hint="write the registry too: docker.io/ORG/NAME:TAG, or localhost/NAME:TAG for an "
            "image built here",
            limits_text="REGISTRY/NAME, with :TAG or @sha256:DIGEST",
        ),
        doc="The container image; it needs `flock` on its PATH, and `vllm` or the command of "
        "`engine`.",
        default="required",
    ),
    Key(
        name="aliases",
        field="aliases",
        kind=Names("ids of models; * matches any characters"),
        doc="Further names by which clients may ask for it, or patterns of names (`claude-*`); no "
        "other model may have them.",
    ),
    Key(
        name="weights",
        field="weights",
        kind=WeightsChoice(WEIGHTS_KEYS),
        doc="Where the weights are; `none` for a server that needs none.",
    ),
    Key(
        name="adapters",
        field="adapters",
        kind=Adapters(WeightsChoice(WEIGHTS_KEYS)),
        doc="LoRA adapters of the model, by the ids under which clients ask for them.",
    ),
    Key(
        name="engine",
        field="engine",
        kind=EngineChoice(ENGINE_KEYS),
        doc="The server: vLLM, or the command of another one that speaks OpenAI's API.",
        default="`vllm`",
    ),
    Key(
        name="lifecycle",
        field="lifecycle",
        kind=Choice(Lifecycle),
        doc="What may run beside it: utility runs beside one other model, normal beside utility "
        "models only, exclusive alone.",
    ),
    Key(
        name="gpu",
        field="gpu",
        kind=AllOrNone(
            wanted_text="a GPU",
            pattern="all|none|[0-9]+(?::[0-9]+)?|(?:GPU|MIG)-[0-9A-Za-z-]+",
            hint="all, none, or a device that `nvidia-ctk cdi list` shows, such as 0",
            limits_text="all, none, or a CDI device of nvidia.com/gpu",
            numbers_too=True,
        ),
        doc="Which GPU the container sees.",
    ),
    Key(
        name="args",
        field="args",
        kind=Arguments(RESERVED_ARGS),
        doc="Words for the command line of the server, one an item; numbers as they stand.",
    ),
    Key(
        name="env",
        field="env",
        kind=Environment(RESERVED_ENV),
        doc="Environment variables of the container, laid over those of defaults.",
        default="`{}`",
    ),
    Key(
        name="files",
        field="files",
        kind=Files(FILE_KEYS),
        doc="Further files that the container sees, read-only, by their path in it.",
        default="`{}`",
    ),
    Key(
        name="dialects",
        field="dialects",
        kind=Choices(Dialect),
        doc="Which APIs the server speaks.",
    ),
    Key(
        name="max_model_len",
        field="max_model_len",
        kind=Count(1, 100_000_000),
        doc="The context window in tokens, as reported to clients.",
        default="the number behind `--max-model-len` in args, if it is there",
    ),
    Key(
        name="rewrite",
        field="rewrite",
        kind=Choices(Rewrite, may_be_empty=True),
        doc="The rules by which requests are [rewritten](rewriting.md); their order here means "
        "nothing.",
    ),
    Key(
        name="context_buffer",
        field="context_buffer_tokens",
        kind=Count(0, 100_000_000),
        doc="How many tokens of the context window `cap_tokens_by_estimate` leaves free.",
        default="a tenth of `max_model_len`, at least 512",
    ),
    Key(
        name="transport",
        field="transport",
        kind=Choice(Transport),
        doc="How sparkd reaches the server: a unix socket, or a port of 127.0.0.1 for servers "
        "that lack `--uds`.",
    ),
    Key(
        name="network",
        field="network",
        kind=Flag(),
        doc="Whether the container gets a network.",
    ),
    Key(
        name="load_timeout",
        field="load_timeout_s",
        kind=LOAD_TIMEOUT,
        doc="How long it may take to become healthy.",
        default="`load_timeout` of sparkd.yaml",
    ),
    Key(
        name="idle_timeout",
        field="idle_timeout_s",
        kind=IDLE_TIMEOUT,
        doc="How long it stays after its last use.",
        default="`idle_timeout` of sparkd.yaml",
    ),
    Key(
        name="stop_grace",
        field="stop_grace_s",
        kind=STOP_GRACE,
        doc="How long it may take to end before it is killed.",
        default="`stop_grace` of sparkd.yaml",
    ),
    Key(
        name="log_output",
        field="log_output",
        kind=Flag(),
        doc="Whether the journal keeps its output; without it, no log explains a failure.",
        default="`log_output` of sparkd.yaml",
    ),
    Key(
        name="shm_size",
        field="shm_bytes",
        kind=Size(_MIB, _TIB),
        doc="The size of /dev/shm in the container.",
    ),
    Key(
        name="memory",
        field="memory_bytes",
        kind=Size(0, 16 * _TIB, or_none=True),
        doc="Its peak memory, until a load has measured it.",
        default="`--gpu-memory-utilization` in args times the host's memory, if it is there",
    ),
    Key(
        name="auto_utilization",
        field="auto_utilization",
        kind=Flag(),
        doc="Whether --gpu-memory-utilization is computed at each start from its need.",
    ),
    Key(
        name="memory_max",
        field="memory_max_bytes",
        kind=Size(16 * _MIB, 16 * _TIB, or_none=True),
        doc="The most memory its scope may use (MemoryMax=); GPU memory is not counted on GB10.",
    ),
    Key(
        name="pinned",
        field="pinned",
        kind=Flag(),
        doc="Whether it stays when idle; another model may still replace it.",
    ),
    Key(
        name="evict",
        field="evict",
        kind=Choice(Evict),
        doc="How it makes room for another normal model: it is stopped, or "
        "[sleeps](../models.md#sleep-instead-of-stop) and is woken later.",
    ),
    Key(
        name="status",
        field="status",
        kind=Choice(Status),
        doc="How far it has been proven: validated in the setup that the catalog came from, before "
        "sparkd; experimental; manual, served and not offered to clients; disabled, listed and "
        "refused.",
    ),
    Key(
        name="reason",
        field="reason",
        kind=Text(),
        doc="Why it has this status; a model that is manual or disabled must say it.",
    ),
    Key(
        name="vision",
        field="vision",
        kind=Flag(),
        doc="Whether it takes pictures.",
    ),
    Key(
        name="clients",
        field="clients",
        kind=Clients(CLIENT_KEYS),
        doc="The limits that clients are configured with.",
        default="`{}`",
    ),
    Key(
        name="title",
        field="title",
        kind=Text(),
        doc="Its name in the menus of clients.",
        default="its id",
    ),
    Key(
        name="description",
        field="description",
        kind=Text(),
        doc="One line for people.",
    ),
    Key(
        name="facts",
        field="facts",
        kind=Lines(),
        doc="Facts about it: measurements, known issues.",
    ),
    Key(
        name="masked",
        field="masked",
        kind=Flag(),
        doc="Hides the entry, and that of the same id in files of lower precedence; nothing else "
        "of it is read.",
        default="`false`",
    ),
)
