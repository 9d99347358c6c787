# SPDX-License-Identifier: Apache-2.0
"""`python -m sparkd` is the daemon, for development: see `sparkd.daemon`."""

import sys

from sparkd.daemon import main

sys.exit(main())
