# SPDX-License-Identifier: Apache-2.0
"""The leftovers of models on a host, in every place where a running model creates something."""

from __future__ import annotations

import time

from .hosts import Host

_LOOK = r"""
units() { systemctl --user list-units --all --plain --no-legend "$@" | cut -d' ' -f1; }
storage=~/.local/share/containers/storage
echo containers: $(podman ps --all --format '{{.Names}}')
echo storage: $(find $storage/overlay-containers -mindepth 1 -maxdepth 1 -type d -printf '%f ')
echo scopes: $(units 'sparkd-model-*.scope')
echo timers: $(units 'sparkd-*.timer')
echo passes: $(units 'sparkd-idle@*.service' 'sparkd-load@*.service' 'sparkd-comeback.service')
echo endpoints: $(ls -A /run/sparkd/models)
echo comebacks: $(ls -A /run/sparkd/comebacks)
echo sleepers: $(ls -A /run/sparkd/asleep)
echo processes: $(pgrep -u sparkd -x 'conmon|vllm|flock')
"""


def remains(host: Host) -> dict[str, list[str]]:
    """By kind, what there is; nothing at all of a kind is not mentioned."""
    found = (line.partition(": ") for line in host.sh(_LOOK, user="sparkd").splitlines())
    return {kind: text.split() for kind, _, text in found if text}


def wait_for_nothing(host: Host, timeout_s: float = 120.0) -> None:
    """Wait until sparkd has removed all that there was of any model."""
    deadline_s = time.monotonic() + timeout_s
    while found := remains(host):
        assert time.monotonic() < deadline_s, f"still there after {timeout_s:g} s: {found}"
        time.sleep(0.2)
