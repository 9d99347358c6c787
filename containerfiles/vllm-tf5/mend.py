# SPDX-License-Identifier: Apache-2.0
"""Changes a text of an installed package, and ends the build when the text is not what it was.

A patch that no longer fits must not leave an image that starts and then fails on one model.
"""

import re
import sys
import sysconfig
from pathlib import Path


def mend(file: str, pattern: str, replacement: str, *, done: str) -> None:
    """Replace every match in a file below site-packages; `done` is found in a mended one."""
    path = Path(sysconfig.get_paths()["purelib"], file)
    text = path.read_text()
    if re.search(done, text):
        print(f"{file}: nothing to do")
        return
    mended, count = re.subn(pattern, replacement, text)
    if count == 0 or not re.search(done, mended):
        sys.exit(f"{path} is not as this patch expects it: {pattern!r} is not there")
    path.write_text(mended)
    print(f"{file}: {count} places changed")
