# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: Sanic's connections and protocol, with own reading and framing."""

import sys
from types import ModuleType

# Sanic's own pages for errors and directories are never shown: `application` has a response to
# every error, and no directory is served. docs/decisions/0009 has the time and memory it saves.
for _page, *_classes in (
    ("sanic.pages.error", "ErrorPage"),
    ("sanic.pages.directory_page", "DirectoryPage", "FileInfo"),
):
    _module = ModuleType(_page)
    vars(_module).update(dict.fromkeys(_classes))
    sys.modules.setdefault(_page, _module)
