# SPDX-License-Identifier: Apache-2.0
"""`python -m sparkd` is the daemon, for development: see `sparkd.gateway.daemon`."""

import sys

from sparkd.gateway.daemon import main

sys.exit(main())
