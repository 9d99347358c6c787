# SPDX-License-Identifier: Apache-2.0
"""The gateway process, `sparkd.service`: entry point, admission, housekeeping, HTTP."""

import sys
from types import ModuleType

# Sanic's own pages for errors and directories, which nobody ever sees here: `app` answers every
# error, and no directory is served. The libraries that draw them are a seventh of the time it takes
# to start the daemon, and 2 MiB.
for _page, *_classes in (
    ("sanic.pages.error", "ErrorPage"),
    ("sanic.pages.directory_page", "DirectoryPage", "FileInfo"),
):
    _module = ModuleType(_page)
    vars(_module).update(dict.fromkeys(_classes))
    sys.modules.setdefault(_page, _module)
