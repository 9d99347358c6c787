# SPDX-License-Identifier: Apache-2.0
"""As whom a command of `sparkctl` acts, and what it refuses."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from sparkd.sparkctl.privileges import Identity, identity, needs_root, user_environment
from tests.unit.project.sources import ROOT


@pytest.mark.parametrize(
    ("uid", "sparkd_uid", "environ", "expected"),
    [
        (0, 996, {}, Identity.ROOT),
        (996, 996, {}, Identity.SPARKD),
        (1000, 996, {}, Identity.STRANGER),
        (1000, None, {}, Identity.STRANGER),
        (0, None, {}, Identity.ROOT),
        (0, 996, {"SPARKD_RUNTIME_DIR": "/tmp/x"}, Identity.OWNER),
        (1000, 996, {"SPARKD_RUNTIME_DIR": "/tmp/x"}, Identity.OWNER),
        (1000, 996, {"SPARKD_RUNTIME_DIR": ""}, Identity.STRANGER),
    ],
)
def test_standing(
    uid: int, sparkd_uid: int | None, environ: dict[str, str], expected: Identity
) -> None:
    assert identity(uid=uid, sparkd_uid=sparkd_uid, environ=environ) is expected


def test_environment_of_the_user_leads_to_his_bus_and_home() -> None:
    account = pwd.struct_passwd(("sparkd", "x", 996, 996, "", "/var/lib/sparkd", "/bin/false"))
    assert user_environment(account) == {
        "HOME": "/var/lib/sparkd",
        "USER": "sparkd",
        "LOGNAME": "sparkd",
        "XDG_RUNTIME_DIR": "/run/user/996",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/996/bus",
    }


def test_refusal_tells_the_command_line_to_repeat_with_sudo() -> None:
    assert needs_root("x", ["start", "a b"]).hint == "sudo sparkctl start 'a b'"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_another_user_is_refused_in_one_line_with_the_command_to_use(tmp_path: Path) -> None:
    lines = ["ps", "start m", "stop m", "key rotate"]
    # Loaded before the change of user, who may not be able to read the tree.
    program = (
        "import os, sys\n"
        "from sparkd.sparkctl import arguments, catalog, main, output, privileges, reading\n"
        "from sparkd.sparkctl.commands import check, key, ps, start, stop\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for line in sys.argv[1:]: print(main.main(line.split()))"
    )
    environ = {name: value for name, value in os.environ.items() if "SPARKD" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program, *lines],
        cwd=ROOT,
        env={**environ, "SPARKD_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "8\n" * len(lines)
    said = done.stderr.splitlines()
    assert all(error.startswith("sparkctl: only root") for error in said[::2])
    assert said[1::2] == [f"  hint: sudo sparkctl {line}" for line in lines]
