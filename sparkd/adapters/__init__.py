# SPDX-License-Identifier: Apache-2.0
"""One outside thing a module (D-Bus, Podman, flock, HTTP, ...); none of them decides anything."""

import sys

# httpx loads its own command line, with rich, click and pygments, wherever Debian has those: 7 MiB
# and tens of milliseconds for nothing. It goes without where that import fails, as it does now.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
