# SPDX-License-Identifier: Apache-2.0
"""The address of the gateway and the key for it, for commands that use a model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sparkd.adapters.files.config_files import config_paths
from sparkd.adapters.files.key_files import read_secrets
from sparkd.core.clients.integrations import KEY_VARIABLE
from sparkd.core.errors import HostError
from sparkd.sparkctl import privileges, system_units

_URL = "SPARKD_URL"


def url() -> str:
    """`SPARKD_URL`, or the address on which this host's sparkd.socket listens.

    Raises HostError when the socket does not listen: another program that has the port would
    receive the key.
    """
    given = os.environ.get(_URL, "").rstrip("/")
    if given:
        return given
    socket, _ = system_units.read()
    address = system_units.url_of(socket)
    if socket.state != "active":
        raise HostError(
            f"sparkd.socket is {socket.state}, so no key is sent to {address}",
            hint="sudo sparkctl doctor tells why; for another address set SPARKD_URL",
            code="gateway_down",
        )
    return address


def key(words: Sequence[str]) -> str:
    """`SPARKD_API_KEY`, or the first key of the key file.

    Raises NotPermittedError when this user may not read the file, or Misconfigured.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    return given or first_of_file(words)


def first_of_file(words: Sequence[str]) -> str:
    """The first key of the key file; raises as `key` does."""
    path = config_paths(os.environ).api_key
    if path.exists() and not os.access(path, os.R_OK):
        raise privileges.needs_root(f"only root and sparkd may read {path}", words)
    return read_secrets(path)[0]
