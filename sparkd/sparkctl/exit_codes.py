# SPDX-License-Identifier: Apache-2.0
"""The documented exit codes of `sparkctl`, and the errors that lead to them.

docs/reference/cli.md lists the same codes. This module prints nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from sparkd.core.errors import (
    Disabled,
    FetchFailed,
    Forbidden,
    HostError,
    Misconfigured,
    NotFound,
    NotPresent,
    RequestError,
    SparkdError,
    StartFailed,
    Unauthorized,
    Unavailable,
    UpstreamLost,
)


class Exit(IntEnum):
    """The exit codes, each with its text from the documentation."""

    OK = 0, "done, or the answer is yes"
    NO = (
        1,
        "the answer is no: `check` or `doctor` found problems, `smoke` or `soak` failed, "
        "or `status` found that sparkd.socket failed",
    )
    USAGE = 2, "the command line is wrong"
    NOT_FOUND = 3, "there is no such model, key or recipe"
    START_FAILED = 4, "the model did not start"
    NOT_NOW = 5, "busy: the GPU is held, or a file or model is in use"
    HOST = 6, "systemd, Podman or the file system refused something"
    CONFIGURATION = 7, "the configuration, or the entry of the model, is wrong"
    NOT_PERMITTED = 8, "this user, or the API key, may not do that"
    FETCH_FAILED = 9, "the weights or files of the model could not be fetched"
    INTERNAL = 70, "a defect of sparkd; a traceback was printed"
    INTERRUPTED = 130, "ended by Ctrl-C, SIGTERM or SIGHUP"
    PIPE = 141, "the reader of the output closed the pipe"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class UsageError(SparkdError):
    """A wrong command line."""

    code = "usage"


class NotPermittedError(SparkdError):
    """The user of sparkctl lacks the permission."""

    code = "not_permitted"


_BY_CLASS: tuple[tuple[type[SparkdError], Exit], ...] = (
    # A subclass precedes its base class, because the first match counts.
    (UsageError, Exit.USAGE),
    (NotPermittedError, Exit.NOT_PERMITTED),
    (Unauthorized, Exit.NOT_PERMITTED),
    (Forbidden, Exit.NOT_PERMITTED),
    (Disabled, Exit.CONFIGURATION),
    (NotPresent, Exit.CONFIGURATION),
    (Misconfigured, Exit.CONFIGURATION),
    (Unavailable, Exit.NOT_NOW),
    (StartFailed, Exit.START_FAILED),
    (NotFound, Exit.NOT_FOUND),
    (RequestError, Exit.USAGE),
    (UpstreamLost, Exit.START_FAILED),
    (FetchFailed, Exit.FETCH_FAILED),
    (HostError, Exit.HOST),
)


def exit_of(error: SparkdError) -> Exit:
    """The exit code of a command that ended with this error."""
    if error.code == "image_missing":
        # The model is known; the missing image makes its start fail.
        return Exit.START_FAILED
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL
