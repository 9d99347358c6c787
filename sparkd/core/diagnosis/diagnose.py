# SPDX-License-Identifier: Apache-2.0
"""All findings of a host, worst first within each area, in the order of repair."""

from __future__ import annotations

from itertools import chain

from sparkd.core.diagnosis import account, gpu, host
from sparkd.core.diagnosis.facts import Facts
from sparkd.core.diagnosis.findings import Finding, Level


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """What is wrong, problems before warnings; what was not seen is not judged."""
    unseen = {name for name, _ in facts.unseen}
    found = chain(
        () if "account" in unseen else account.account_findings(facts.account),
        account.kernel_findings(facts.kernel) if facts.kernel else (),
        account.manager_findings(facts.manager, facts.account, facts.kernel)
        if facts.manager
        else (),
        account.engine_findings(facts.engine, facts.manager) if facts.engine else (),
        gpu.gpu_findings(facts.gpu, facts.engine) if facts.gpu else (),
        host.port_findings(facts.port) if facts.port else (),
        host.catalog_findings(facts.catalog) if facts.catalog else (),
        *(host.path_findings(path) for path in facts.paths),
        host.memory_findings(facts.memory) if facts.memory else (),
        *(host.disk_findings(disk) for disk in facts.disks),
        host.clock_findings(facts.clock) if facts.clock else (),
        host.leftover_findings(facts.leftovers) if facts.leftovers else (),
    )
    return tuple(sorted(found, key=lambda finding: finding.level is not Level.PROBLEM))
