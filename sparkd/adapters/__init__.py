# SPDX-License-Identifier: Apache-2.0
"""Access to the outside, one thing per module or package; adapters decide nothing."""

import sys

# What these libraries load if it happens to be there, as on Debian: the command line of httpx, bars
# of progress for podman-py, a second guess at encodings for requests. 13 MiB of the daemon's memory
# and tens of milliseconds, for nothing; each goes without where the import fails, as it does now.
for _needless in ("httpx._main", "rich", "chardet"):
    sys.modules.setdefault(_needless, None)  # type: ignore[arg-type]
