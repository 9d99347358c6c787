# SPDX-License-Identifier: Apache-2.0
"""The reason why Podman gives no GPU to a container, which its own error does not name."""

from __future__ import annotations

import asyncio

from sparkd.adapters.podman.client import Podman
from sparkd.core.errors import HostError, SparkdError
from sparkd.core.model import ModelSpec

CODE = "cdi_unresolvable"


async def explained(error: HostError, spec: ModelSpec, podman: Podman) -> HostError:
    """The error with file, version and cure, where the host shows them; otherwise as it is."""
    if error.code != CODE or spec.gpu is None:
        return error
    # Imported here: only a start without a GPU needs the diagnosis, which takes 20 ms to load.
    from sparkd.adapters import host_facts
    from sparkd.core.diagnosis.facts import Engine, Gpu
    from sparkd.core.diagnosis.gpu import unresolved_reason

    try:
        info = await podman.info()
    except SparkdError:
        return error
    specs = await asyncio.to_thread(host_facts.cdi_specs)
    gpu = Gpu(specs=specs, wanted=(f"nvidia.com/gpu={spec.gpu}",))
    found = unresolved_reason(gpu, Engine(socket_state="active", version=info.version))
    if found is None:
        return error
    message = f"model {spec.model_id!r} gets no GPU: {found.what}"
    return HostError(message, hint=found.fix, code=CODE)
