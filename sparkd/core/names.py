# SPDX-License-Identifier: Apache-2.0
"""The names derived from a model id, in one place: units, containers, locks, paths; and back.

Model ids are what clients send (`qwen3.5-0.8b`, `org/name`). systemd, Podman and the file system
each allow other characters, so derived names carry the id escaped, reversibly: in units and paths
`\\xHH` for what a unit name may not hold (systemd.unit(5)), in container names `_HH` for what
Podman refuses. Unlike systemd-escape(1), `-` stays as it is: nearly every id has one,
`sparkd-model-gpt-oss-20b.scope` is what a person wants to type, and `/` becomes `\\x2f` instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkd.core.errors import RequestError

MAX_ESCAPED_CHARS = 79
"""What the path of the endpoint's socket leaves of the 107 bytes of sun_path (unix(7)); unit and
file names may be longer."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]*")
_UNIT_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.-")
_CONTAINER_SAFE = _UNIT_SAFE - {":", "_"}

SLICE = "sparkd.slice"
SCOPE_PATTERN = "sparkd-model-*.scope"
COMEBACK_SERVICE = "sparkd-comeback.service"
"""Brings utility models back that had to leave."""
COMEBACK_TARGET = "sparkd-comeback.target"
"""Starts it; reached when an exclusive model's scope ends."""
LABEL_MODEL = "io.sparkd.model"
LABEL_SPEC = "io.sparkd.spec"
LABEL_ENDPOINT = "io.sparkd.endpoint"
LABEL_HEALTH = "io.sparkd.health"
"""Only where it is not the usual one."""

_SCOPE = re.compile(r"sparkd-model-(?P<escaped>.+)\.scope")


def check_model_id(model_id: str) -> str:
    """Return the id, or raise RequestError when it cannot name a model."""
    if not _ID.fullmatch(model_id) or ".." in model_id:
        raise RequestError(
            f"{model_id[:MAX_ESCAPED_CHARS]!r} is not a model id",
            hint="letters, digits and . _ : / + - only, first a letter or digit, no two dots",
        )
    if len(escape(model_id)) > MAX_ESCAPED_CHARS:
        raise RequestError(
            f"{model_id[:MAX_ESCAPED_CHARS]!r} is not a model id: too long for its socket's path",
            hint=f"at most {MAX_ESCAPED_CHARS} characters, of which / and + count as four",
        )
    return model_id


def escape(model_id: str) -> str:
    """The id as part of a unit or file name."""
    return "".join(c if c in _UNIT_SAFE else f"\\x{ord(c):02x}" for c in model_id)


def unescape(escaped: str) -> str:
    """Undo `escape`."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), escaped)


@dataclass(frozen=True, slots=True)
class Names:
    """Every name of one model."""

    model_id: str

    @property
    def escaped(self) -> str:
        return escape(self.model_id)

    @property
    def scope(self) -> str:
        return f"sparkd-model-{self.escaped}.scope"

    @property
    def container(self) -> str:
        escaped = (c if c in _CONTAINER_SAFE else f"_{ord(c):02x}" for c in self.model_id)
        return "sparkd-model-" + "".join(escaped)

    @property
    def load_timer(self) -> str:
        """Ends a start that no process watches any more.

        Starts `sparkd-load@X.service`, an alias of `idle_service`: a transient timer cannot be
        told which unit to start, it starts the service of its own name.
        """
        return f"sparkd-load@{self.escaped}.timer"

    @property
    def idle_timer(self) -> str:
        """Ends an idle model."""
        return f"sparkd-idle@{self.escaped}.timer"

    @property
    def idle_service(self) -> str:
        return f"sparkd-idle@{self.escaped}.service"


def model_of_scope(unit: str) -> str | None:
    """The model id of a scope name, or None when the unit is not a model's scope."""
    match = _SCOPE.fullmatch(unit)
    return unescape(match["escaped"]) if match else None


GPU_LOCK_MODE = 0o640
"""Of gpu.lock and lane.lock, as tmpfiles.d has it: programs of the group may hold them too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things live on the host; tests and development move the roots."""

    runtime_dir: Path = Path("/run/sparkd")
    state_dir: Path = Path("/var/lib/sparkd")
    in_container_dir: Path = Path(__file__).resolve().parents[1] / "in_container"
    """Our code that runs in containers."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Layout:
        """The fixed paths; for development SPARKD_RUNTIME_DIR and SPARKD_STATE_DIR move them."""
        fixed = cls()
        return cls(
            runtime_dir=Path(environ.get("SPARKD_RUNTIME_DIR") or fixed.runtime_dir),
            state_dir=Path(environ.get("SPARKD_STATE_DIR") or fixed.state_dir),
        )

    @property
    def gpu_lock(self) -> Path:
        return self.runtime_dir / "gpu.lock"

    @property
    def lane_lock(self) -> Path:
        return self.runtime_dir / "lane.lock"

    @property
    def drop_caches(self) -> Path:
        return self.runtime_dir / "drop-caches"

    @property
    def locks_dir(self) -> Path:
        return self.runtime_dir / "locks"

    @property
    def start_lock(self) -> Path:
        """Held while a process decides about a start and makes room for it (`lifecycle.leases`)."""
        return self.locks_dir / "start"

    def transition_lock(self, names: Names) -> Path:
        return self.locks_dir / f"{names.escaped}.transition"

    def activity_lock(self, names: Names) -> Path:
        return self.locks_dir / f"{names.escaped}.activity"

    def pull_lock(self, destination: Path) -> Path:
        """Held while something is fetched to that path; two models may share one."""
        name = hashlib.sha256(str(destination).encode()).hexdigest()[:16]
        return self.locks_dir / f"{name}.pull"

    @property
    def endpoints_dir(self) -> Path:
        return self.runtime_dir / "models"

    def endpoint_dir(self, names: Names) -> Path:
        return self.endpoints_dir / names.escaped

    def endpoint_socket(self, names: Names) -> Path:
        return self.endpoint_dir(names) / "api.sock"

    def cache_dir(self, names: Names) -> Path:
        return self.state_dir / "cache" / names.escaped

    @property
    def stats_dir(self) -> Path:
        return self.state_dir / "stats"

    def soak_file(self, names: Names) -> Path:
        """What `sparkctl soak` found of a model."""
        return self.soak_dir / f"{names.escaped}.json"

    @property
    def soak_dir(self) -> Path:
        return self.state_dir / "soak"

    @property
    def failures_dir(self) -> Path:
        return self.runtime_dir / "failures"

    @property
    def comebacks_dir(self) -> Path:
        return self.runtime_dir / "comebacks"

    def sleep_marker_file(self, names: Names) -> Path:
        """There while a model sleeps, or is on its way there or back."""
        return self.asleep_dir / names.escaped

    @property
    def asleep_dir(self) -> Path:
        return self.runtime_dir / "asleep"

    @property
    def pins_dir(self) -> Path:
        return self.runtime_dir / "pins"

    @property
    def records_dirs(self) -> tuple[Path, ...]:
        """Where small files are replaced as a whole."""
        runtime = (self.failures_dir, self.comebacks_dir, self.asleep_dir, self.pins_dir)
        return (self.runtime_dir, *runtime, self.stats_dir, self.soak_dir)

    @property
    def weights_dir(self) -> Path:
        return self.state_dir / "models"

    @property
    def files_dir(self) -> Path:
        """Single files that models need and that were fetched."""
        return self.state_dir / "files"

    def host_path(self, path: Path) -> Path:
        """Where a file of an entry is on the host; an absolute path stays as it is."""
        return self.files_dir / path
