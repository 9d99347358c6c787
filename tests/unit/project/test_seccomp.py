# SPDX-License-Identifier: Apache-2.0
"""The list of the kernel's calls that a model may make: what is not on it, and that it is one list.

That it holds, and that engines live with it, is seen on hosts (tests/system/test_sandbox.py).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

from sparkd.core.container.spec import SECCOMP_PROFILE

PROFILE: dict[str, Any] = json.loads(SECCOMP_PROFILE.read_text())
RULES: list[dict[str, Any]] = PROFILE["syscalls"]
NEW_NAMESPACES = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
"""Of clone(2); CLONE_NEWTIME shares its bit with the signal of the end, and is for unshare only."""
FORBIDDEN = (
    *("unshare", "setns", "clone3", "mount", "umount2", "pivot_root", "chroot", "move_mount"),
    *("open_tree", "fsopen", "fsmount", "mount_setattr", "ptrace", "process_vm_readv"),
    *("process_vm_writev", "keyctl", "add_key", "request_key", "bpf", "perf_event_open"),
    *("userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load"),
    *("kexec_file_load", "init_module", "finit_module", "delete_module", "open_by_handle_at"),
    *("reboot", "swapon", "syslog", "settimeofday", "iopl", "ioperm", "modify_ldt"),
)


def named(*actions: str) -> list[str]:
    return [name for rule in RULES if rule["action"] in actions for name in rule["names"]]


def test_what_is_not_on_the_list_is_a_call_that_this_kernel_does_not_have() -> None:
    # So a libc tries the older call instead, where one that is refused would end the program.
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert os.strerror(PROFILE["defaultErrnoRet"]) == "Function not implemented"
    assert {rule["action"] for rule in RULES} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_call_is_forbidden_whatever_its_arguments(name: str) -> None:
    assert name not in named("SCMP_ACT_ALLOW")
    (rule,) = (rule for rule in RULES if name in rule["names"])
    assert "args" not in rule


def test_no_namespace_can_be_asked_for_by_clone() -> None:
    (rule,) = (rule for rule in RULES if "clone" in rule["names"])
    (argument,) = rule["args"]
    assert (argument["index"], argument["op"]) == (0, "SCMP_CMP_MASKED_EQ")
    assert argument["value"] == sum(NEW_NAMESPACES.values())
    assert argument["valueTwo"] == 0


def test_each_call_has_one_answer() -> None:
    plain = [name for rule in RULES if "args" not in rule for name in rule["names"]]
    assert [name for name, count in Counter(plain).items() if count > 1] == []
    told = {name for rule in RULES if "args" in rule for name in rule["names"]}
    assert told == {"clone", "socket", "personality"}
    assert not told & set(plain)


def test_only_sockets_of_addresses_that_engines_have_can_be_made() -> None:
    rules = [rule for rule in RULES if rule["names"] == ["socket"]]
    families = [rule["args"][0]["value"] for rule in rules]
    assert families == [1, 2, 10, 16], "unix, internet, its newer version, netlink"
    assert rules[-1]["args"][1] == {"index": 2, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_EQ"}


def test_it_is_for_the_machine_s_own_calls_only() -> None:
    # Without a list of architectures the filter is for the one it is loaded on.
    assert "archMap" not in PROFILE
    assert "architectures" not in PROFILE
