# SPDX-License-Identifier: Apache-2.0
"""The frozen types that every layer shares: settings, model entries, and the configuration.

*Model* is a catalog entry (`ModelSpec`), *instance* its running container (`Instance`), *snapshot*
one reading of everything (`Snapshot`). Times are seconds; `_at` is wall time since the epoch, as
the clock is now and for showing only; `_s` a duration, or a moment on the monotonic clock, which
alone decides. Nothing here looks at the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final


class KeepAlive(StrEnum):
    """The form of keep-alives in event streams."""

    CHUNK = "chunk"
    """An empty event of the dialect, where it has one."""
    COMMENT = "comment"
    OFF = "off"


class Lifecycle(StrEnum):
    """Which locks a model's process holds (see `containerspec.lock_command`)."""

    UTILITY = "utility"
    """Small; runs beside one normal model. SH on gpu.lock."""
    NORMAL = "normal"
    """One at a time. SH on gpu.lock, EX on lane.lock."""
    EXCLUSIVE = "exclusive"
    """Alone on the GPU. EX on both."""


class AbandonedLoads(StrEnum):
    FINISH = "finish"
    STOP = "stop"


class WhenBusy(StrEnum):
    """What a request gets when another model is in its way."""

    WAIT = "wait"
    REJECT = "reject"


class Evict(StrEnum):
    """What happens to a model that makes room for another one of its class."""

    STOP = "stop"
    SLEEP = "sleep"
    """vLLM's sleep mode: the process stays and lets go of the GPU's locks (`sleeping`)."""


class LogRequests(StrEnum):
    """Which inference requests the journal is told about."""

    ALL = "all"
    ERRORS = "errors"
    NONE = "none"


class MetricsAccess(StrEnum):
    """Who may read /metrics."""

    KEY = "key"
    OPEN = "open"


class Transport(StrEnum):
    UNIX = "unix"
    TCP = "tcp"


class Dialect(StrEnum):
    """The API families a model's server speaks."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SCORE = "score"
    POOLING = "pooling"
    CLASSIFY = "classify"
    TRANSCRIPTIONS = "transcriptions"


class Rewrite(StrEnum):
    """The named rules of request rewriting, in the order in which they are applied."""

    TEXT_CONTENT = "text_content"
    STRICT_TOOL_WORDING = "strict_tool_wording"
    ROLE_ALTERNATION = "role_alternation"
    STRIP_TOOLS = "strip_tools"
    FORCE_TOOLS = "force_tools"
    CAP_TOKENS = "cap_tokens"
    CAP_TOKENS_BY_ESTIMATE = "cap_tokens_by_estimate"
    THINKING_FLAG = "thinking_flag"
    BINARY_REASONING_EFFORT = "binary_reasoning_effort"
    DEFAULT_NON_THINKING = "default_non_thinking"


class Status(StrEnum):
    """How far a model has been proven."""

    VALIDATED = "validated"
    EXPERIMENTAL = "experimental"
    MANUAL = "manual"
    """Served when it is named, and left out of what is offered to clients."""
    DISABLED = "disabled"
    """Listed, and refused with its reason."""


class Client(StrEnum):
    """For whom limits can be given; what holds for all is laid under what holds for one."""

    ALL = "all"
    OPENCODE = "opencode"
    CLINE = "cline"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """The limits that a client is configured with; None is not configured."""

    context_tokens: int | None = None
    output_tokens: int | None = None
    options: tuple[tuple[str, float], ...] = ()
    """Sampling options, by the names that the client has for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFile:
    """A file or directory that the container sees read-only."""

    target: str
    """Where the container sees it."""
    path: Path
    """Where the host has it; relative to `Layout.files_dir` when it is fetched."""
    url: str | None = None
    sha256: str | None = None
    repo: str | None = None
    file: str | None = None
    """Which file of the repository."""


class Placeholder(StrEnum):
    """What stands in the command of an engine for what sparkd decides."""

    WEIGHTS = "{weights}"
    """The directory of the weights, in the container."""
    MODEL = "{model}"
    """The id by which clients name the model."""
    PORT = "{port}"
    """With `transport: tcp`, where to listen, on every address."""
    SOCKET = "{socket}"
    """With `transport: unix`, the path of the socket to listen on."""


HEALTH_PATH: Final = "/health"
"""Where vLLM and most others say that they are ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A server that is not `vllm serve`."""

    command: tuple[str, ...]
    """Its command line before the entry's args, with placeholders."""
    health: str = HEALTH_PATH
    """What it answers with 200 once it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where a model's weights are: a directory of the host, or a repository fetched to one."""

    path: Path
    repo: str | None = None
    revision: str | None = None
    include: tuple[str, ...] = ()
    """Patterns of the files to fetch; empty for one set of weights by `weightset`."""
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter of a model: an id of its own, answered by the model's server."""

    name: str
    """The id by which clients name it."""
    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One catalog entry, complete: every default is filled in, every unit is converted."""

    model_id: str
    image: str
    aliases: tuple[str, ...] = ()
    """Further names by which clients may ask for it."""
    lifecycle: Lifecycle = Lifecycle.NORMAL
    weights: Weights | None = None
    adapters: tuple[Adapter, ...] = ()
    engine: Engine | None = None
    """None for vLLM."""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[HostFile, ...] = ()
    gpu: str | None = "all"
    """CDI device name under nvidia.com/gpu, or None for no GPU."""
    dialects: tuple[Dialect, ...] = (Dialect.CHAT, Dialect.COMPLETIONS)
    max_model_len: int | None = None
    """Context window in tokens."""
    rewrite: tuple[Rewrite, ...] = ()
    context_buffer_tokens: int | None = None
    """What `cap_tokens_by_estimate` leaves free; None for a share of the context window."""
    transport: Transport = Transport.UNIX
    network: bool = False
    """Whether the container gets a network of its own (pasta) instead of none."""
    load_timeout_s: float = 900.0
    idle_timeout_s: float = 1200.0
    stop_grace_s: float = 10.0
    """From SIGINT to SIGKILL."""
    shm_bytes: int = 1 << 30
    memory_bytes: int | None = None
    """Its peak memory, until a load has measured it."""
    auto_utilization: bool = False
    """Whether `--gpu-memory-utilization` is computed from its need at each start."""
    memory_max_bytes: int | None = None
    pinned: bool = False
    """Never stopped for being idle."""
    evict: Evict = Evict.STOP
    log_output: bool = True
    """Whether what it prints is kept in the journal."""
    status: Status = Status.EXPERIMENTAL
    reason: str = ""
    """Why it has this status; a disabled model always says it."""
    vision: bool = False
    """Whether it takes pictures."""
    clients: tuple[tuple[Client, ClientLimits], ...] = ()
    title: str = ""
    description: str = ""
    facts: tuple[str, ...] = ()
    """Facts about it: measurements, known issues."""
    family: str = ""
    """What the file calls its models together; for listings, not part of its identity."""
    source: str = ""
    """`file:line` of the entry, for messages; not part of its identity."""

    @property
    def all_weights(self) -> tuple[Weights, ...]:
        """The weights of the model and of its adapters."""
        own = (self.weights,) if self.weights is not None else ()
        return (*own, *(adapter.weights for adapter in self.adapters))

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The ids of its adapters."""
        return tuple(adapter.name for adapter in self.adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """The further names of the model: aliases and adapters."""
        return (*self.aliases, *self.adapter_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a configuration file."""

    source: str
    line: int
    path: str
    """Dotted path of the key, `models.fake-a.args[2]`."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" + (f": {self.path}" if self.path else "")
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """sparkd.yaml: what is not about one model."""

    idle_exit_s: float = 60.0
    drain_timeout_s: float = 30.0
    body_limit_bytes: int = 64 << 20
    bodies_limit_bytes: int = 256 << 20
    idle_timeout_s: float = 1200.0
    """Default for models that set none; likewise the next three."""
    load_timeout_s: float = 900.0
    stop_grace_s: float = 10.0
    log_output: bool = True
    busy: WhenBusy = WhenBusy.WAIT
    abandoned_loads: AbandonedLoads = AbandonedLoads.FINISH
    max_wait_s: float = 60.0
    min_residency_s: float = 30.0
    queue_limit: int = 512
    queue_timeout_s: float = 1800.0
    hang_timeout_s: float = 180.0
    memory_reserve_bytes: int = 4 << 30
    memory_floor_bytes: int = 2 << 30
    drop_caches_below_bytes: int = 8 << 30
    preload: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = (
        *("http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*"),
        *("http://[::1]:*", "https://[::1]:*", "vscode-webview://*", "app://obsidian.md"),
        *("tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"),
        *("capacitor://localhost", "ionic://localhost", "capacitor-electron://-"),
    )
    default_model: str | None = None
    """What `auto` and `default` mean."""
    small_model: str | None = None
    """What `small` means."""
    hub: str = "https://huggingface.co"
    keep_alive: KeepAlive = KeepAlive.CHUNK
    log_requests: LogRequests = LogRequests.ALL
    metrics_access: MetricsAccess = MetricsAccess.KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything configured: settings, the models that parse, and what is wrong with the rest."""

    settings: Settings = field(default_factory=Settings)
    models: dict[str, ModelSpec] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Further names of the models, to their ids."""
    broken: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    """Entries that do not parse, by model id; they are listed and refused, others serve."""
    problems: tuple[Problem, ...] = ()
    """All problems of all files, those of `broken` included."""
    settings_ok: bool = True
    """False when sparkd.yaml itself is wrong; `settings` then holds the defaults."""

    @property
    def adapters(self) -> frozenset[str]:
        """The ids of all adapters, which a key may name as it may name models."""
        specs = self.models.values()
        return frozenset(adapter.name for spec in specs for adapter in spec.adapters)

    def entry(self, model_id: str) -> ModelSpec:
        """The entry of a model; for one that left the catalog while it runs, the defaults.

        Such a model counts as a normal one, with the times of sparkd.yaml.
        """
        settings = self.settings
        return self.models.get(model_id) or ModelSpec(
            model_id=model_id,
            image="",
            load_timeout_s=settings.load_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            stop_grace_s=settings.stop_grace_s,
        )
