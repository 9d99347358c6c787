# SPDX-License-Identifier: Apache-2.0
"""Checks for the parts that a model needs on this host: weights, files, image, GPU description.

Looks only, and never for long: files are looked at in a thread, Podman's answer about images is
kept for some time and waited for only briefly. An image that Podman does not tell of in time counts
as present, because the start tells the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.adapters.files import weight_files
from sparkd.adapters.files.recipes import recipes
from sparkd.adapters.podman.client import Podman
from sparkd.core.catalog.presence import Missing, Part, refusal
from sparkd.core.container.containerfile import LOCAL_PREFIX
from sparkd.core.container.spec import CDI_DIRECTORIES
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, ModelSpec, Weights
from sparkd.core.names import Layout

_KEPT_S = 30.0
"""How long an image that was there counts as there; a start learns the truth."""
_LIST_KEPT_S = 60.0
"""The same for lists of models, which must not start Podman each time."""
_MISS_KEPT_S = 1.0
"""An image that was missing may have been pulled or built since."""
_PATIENCE_S = 5.0
_LIST_PATIENCE_S = 2.0
_GPU_CODE = "cdi_unresolvable"
"""Podman's refusal at a start has the same."""


@dataclass(slots=True)
class Presence:
    layout: Layout
    podman: Podman
    _images: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """Whether Podman has each image, and when it said so."""
    _asking: asyncio.Task[None] | None = None

    async def require(self, spec: ModelSpec) -> None:
        """Raise the refusal of a model that lacks something."""
        missing = await self.missing(spec)
        if missing:
            raise refusal(spec.model_id, missing)

    async def missing(self, spec: ModelSpec) -> tuple[Missing, ...]:
        """All that one model lacks, as of now."""
        files, _ = await asyncio.gather(
            asyncio.to_thread(_missing_files, spec, self.layout),
            self._know([spec.image], kept_s=_KEPT_S, miss_s=_MISS_KEPT_S, patience_s=_PATIENCE_S),
        )
        return (*files, *self._missing_image(spec), *_missing_gpu(spec))

    async def survey(self, config: Config) -> dict[str, tuple[Missing, ...]]:
        """What each model of the catalog lacks, the GPU aside; images as of the last minute."""
        specs = config.models.values()
        files, _ = await asyncio.gather(
            asyncio.to_thread(lambda: [_missing_files(spec, self.layout) for spec in specs]),
            self._know(
                {spec.image for spec in specs},
                kept_s=_LIST_KEPT_S,
                miss_s=_LIST_KEPT_S,
                patience_s=_LIST_PATIENCE_S,
            ),
        )
        return {
            spec.model_id: (*found, *self._missing_image(spec))
            for spec, found in zip(specs, files, strict=True)
        }

    def _missing_image(self, spec: ModelSpec) -> tuple[Missing, ...]:
        if self._images.get(spec.image, (True, 0.0))[0]:
            return ()
        return (missing_image(spec.image),)

    async def _know(
        self, images: Iterable[str], *, kept_s: float, miss_s: float, patience_s: float
    ) -> None:
        """Have Podman asked about images whose answers are too old; give up waiting in time."""
        deadline_s = time.monotonic() + patience_s
        for _ in range(2):  # The question that is open now may not have been about these.
            now_s = time.monotonic()
            limits = {True: now_s - kept_s, False: now_s - miss_s}
            told = {image: self._images.get(image, (False, -math.inf)) for image in images}
            if all(at_s >= limits[there] for there, at_s in told.values()):
                return
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask({*self._images, *told}))
            # Not cancelled at the end of patience: a call of Podman has to be waited for.
            await asyncio.wait([self._asking], timeout=max(0.0, deadline_s - now_s))

    async def _ask(self, images: Iterable[str]) -> None:
        names = sorted(images)
        if not self.podman.api_socket.exists():
            return
        with contextlib.suppress(SparkdError):
            there = await self.podman.images_present(names)
            now_s = time.monotonic()
            self._images = {name: (name in there, now_s) for name in names}


def missing_image(image: str) -> Missing:
    return Missing(
        part=Part.IMAGE,
        code="image_missing",
        text=f"its image {image} is missing",
        hint=_image_hint(image),
    )


def _image_hint(image: str) -> str:
    if not image.startswith(LOCAL_PREFIX):
        return f"cd / && sudo -u sparkd podman pull {image}"
    known = {recipe.image: recipe.name for recipe in recipes(os.environ).values()}
    if image in known:
        return f"sudo sparkctl build {known[image]}"
    return f"load it with podman load as the user sparkd: {image}"


def check_files(spec: ModelSpec, layout: Layout) -> None:
    """Raise the refusal of a model whose weights or files cannot be read."""
    missing = _missing_files(spec, layout)
    if missing:
        raise refusal(spec.model_id, missing)


def _missing_files(spec: ModelSpec, layout: Layout) -> tuple[Missing, ...]:
    weights = [_missing_weights(spec, one) for one in spec.all_weights]
    files = [layout.host_path(file.path) for file in spec.files]
    fetched = [bool(file.url or file.repo) for file in spec.files]
    return (
        *(one for one in weights if one is not None),
        *(
            Missing(
                part=Part.FILE,
                code="files_missing",
                text=f"the file {path} is missing",
                hint=f"sudo sparkctl pull {spec.model_id}"
                if fetch
                else f"put it there, readable by the user sparkd: ls -l {path}",
            )
            for path, fetch in zip(files, fetched, strict=True)
            if not os.access(path, os.R_OK)
        ),
    )


def _missing_weights(spec: ModelSpec, weights: Weights) -> Missing | None:
    if not _readable(weights.path):
        return Missing(
            part=Part.WEIGHTS,
            code="weights_missing",
            text=f"its weights are missing at {weights.path}",
            hint=f"sudo sparkctl pull {spec.model_id}"
            if weights.repo
            else f"put them there, readable by the user sparkd: ls -l {weights.path}",
        )
    flaw = weight_files.layout_flaw(weights.path)
    if flaw is not None:
        return Missing(
            part=Part.WEIGHTS,
            code="weights_misplaced",
            text=f"its weights cannot be mounted: {flaw.message}",
            hint=flaw.hint,
        )
    sealed = weight_files.sealed_file(weights.path)
    if sealed is None:
        return None
    return Missing(
        part=Part.WEIGHTS,
        code="weights_unreadable",
        text=f"its weights cannot be read: {sealed}",
        hint=f"sudo chmod -R a+rX {sealed.parent}",
    )


def _missing_gpu(spec: ModelSpec) -> tuple[Missing, ...]:
    """Only the plain case: no file describes any GPU; what Podman makes of a file, it tells."""
    if spec.gpu is None or any(_described(directory) for directory in CDI_DIRECTORIES):
        return ()
    return (
        Missing(
            part=Part.GPU,
            code=_GPU_CODE,
            text="no file in /etc/cdi or /var/run/cdi describes a GPU",
            hint="sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        ),
    )


def _described(directory: Path) -> bool:
    try:
        return any(path.suffix in (".json", ".yaml", ".yml") for path in directory.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _readable(path: Path) -> bool:
    try:
        return path.is_file() or any(path.iterdir())
    except OSError:
        return False
