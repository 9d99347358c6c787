# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as far as the gateway writes any itself (HTML standard, section 9.2)."""

from __future__ import annotations


def comment(text: str) -> bytes:
    """A comment: clients ignore it, and it keeps connections and patience alive."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"
