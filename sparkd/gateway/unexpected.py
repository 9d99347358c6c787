# SPDX-License-Identifier: Apache-2.0
"""Exceptions that are defects of sparkd: logged with their place, answered as an internal error."""

from __future__ import annotations

import logging
import traceback

from sparkd.core.errors import SparkdError

log = logging.getLogger(__name__)


def unexpected(exception: BaseException) -> SparkdError:
    """Log the exception and return the error that the client gets."""
    # The value of an exception may quote a request; its kind and place never do.
    frames = "".join(traceback.format_tb(exception.__traceback__))
    log.error("bug: %s while answering a request\n%s", type(exception).__name__, frames)
    return SparkdError(
        f"sparkd failed with an internal {type(exception).__name__}",
        hint="sudo journalctl -u sparkd shows where",
    )
