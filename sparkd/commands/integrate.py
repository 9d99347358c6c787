# SPDX-License-Identifier: Apache-2.0
"""`sparkctl integrate`: the configuration of a client, with our address, models and their limits.

The key is written down only when that is asked for: what is printed is likely to be kept in a file.
"""

from __future__ import annotations
