# SPDX-License-Identifier: Apache-2.0
"""What a swap costs without sparkd's decisions: the same calls to Podman and systemd, in a row.

Sent to a host and run there as the user sparkd, with the installed package's adapters; prints the
seconds of each swap as JSON. One model after the other is stopped and removed, and the next one
created, put into its scope, started and waited for, as fast as both answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time

sys.path.insert(0, "/usr/lib/sparkd")

from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.files.config_files import config_paths, load_config
from sparkd.core.container.spec import container_spec, endpoint_of
from sparkd.core.container.units import scope_properties
from sparkd.core.model import ModelSpec
from sparkd.core.names import Names
from sparkd.runtime import Runtime, build

HEALTH_PAUSE_S = 0.005
HEALTH_LIMIT_S = 30.0


async def start(runtime: Runtime, spec: ModelSpec) -> str:
    names, layout = Names(spec.model_id), runtime.layout
    layout.endpoint_dir(names).mkdir(mode=0o700, exist_ok=True)
    layout.cache_dir(names).mkdir(mode=0o700, exist_ok=True)
    container_id = await runtime.podman.create(container_spec(spec, layout))
    pids = await runtime.podman.init(container_id)
    scope = scope_properties(spec, (pids.payload, pids.conmon))
    await runtime.systemd.start_transient(names.scope, scope)
    await runtime.podman.start(container_id)
    engine_client = EngineClient(endpoint_of(spec, layout, None))
    async with asyncio.timeout(HEALTH_LIMIT_S):
        while not await engine_client.healthy():
            await asyncio.sleep(HEALTH_PAUSE_S)
    await engine_client.close()
    return container_id


async def stop(runtime: Runtime, spec: ModelSpec, container_id: str) -> None:
    await runtime.podman.stop(container_id, spec.stop_grace_s)
    await runtime.systemd.stop(Names(spec.model_id).scope, spec.stop_grace_s)
    await runtime.podman.remove(container_id)
    shutil.rmtree(runtime.layout.endpoint_dir(Names(spec.model_id)))


async def main(swaps: int, names: list[str]) -> None:
    runtime = build()
    layout = runtime.layout
    config = load_config(config_paths(os.environ), weights_dir=layout.weights_dir)
    specs = [config.models[name] for name in names]
    resident = await start(runtime, specs[0])
    taken_s = []
    for number in range(swaps):
        began_s = time.monotonic()
        await stop(runtime, specs[number % 2], resident)
        resident = await start(runtime, specs[(number + 1) % 2])
        taken_s.append(time.monotonic() - began_s)
    await stop(runtime, specs[swaps % 2], resident)
    await runtime.close()
    print(json.dumps(taken_s))


asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
