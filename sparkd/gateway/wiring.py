# SPDX-License-Identifier: Apache-2.0
"""The parts that only the gateway has, added to the runtime, and their subscriptions."""

from __future__ import annotations

from sparkd.adapters.files.key_files import KeyFiles
from sparkd.core.model import Config
from sparkd.gateway.context import Context
from sparkd.gateway.gc_tuning import GcTuning
from sparkd.gateway.housekeeping import Housekeeper
from sparkd.gateway.proxy import Proxy
from sparkd.lifecycle.sampling import Sampler
from sparkd.runtime import Runtime


def wire(runtime: Runtime, config: Config, keys: KeyFiles) -> tuple[Context, Housekeeper, GcTuning]:
    """Build the gateway's parts on a runtime, and connect them. Starts nothing."""
    context = Context(
        runtime=runtime,
        proxy=Proxy(runtime.ensurer),
        sampler=Sampler(runtime.sessions),
        config=config,
        keys=keys,
    )
    housekeeper = Housekeeper(
        lambda: context.config,
        leases=runtime.leases,
        observer=runtime.observer,
        systemd=runtime.systemd,
        evictor=runtime.evictor,
        ensurer=runtime.ensurer,
        idle_check=runtime.idle_check,
        records=runtime.records,
        starter=runtime.starter,
    )
    gc_tuning, scheduler = GcTuning(), runtime.scheduler
    scheduler.on_started.append(runtime.exit_watch.watch)
    scheduler.on_started.append(lambda _: context.readings.changed())
    scheduler.on_left.append(context.traffic.waited)
    scheduler.on_left.append(lambda *_: context.readings.changed())
    scheduler.on_left.append(lambda *_: gc_tuning.collect_soon())
    return context, housekeeper, gc_tuning
