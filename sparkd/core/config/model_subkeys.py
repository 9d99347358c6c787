# SPDX-License-Identifier: Apache-2.0
"""The keys below the keys of a model's entry, and the options that an entry may not set.

As in `core.config.model_keys`, of which this is the lower half, parser and documentation follow
these rows.
"""

from __future__ import annotations

from typing import Final

from sparkd.core.config.kinds import Count, Key, Text, Texts, table
from sparkd.core.config.model_kinds import CommandWords, Options
from sparkd.core.model import HEALTH_PATH

MAX_TOKENS: Final = 100_000_000
"""More than any context window has."""

_ABSOLUTE_PATH = Text(
    wanted_text="an absolute path",
    pattern=r"(?!.*/\.\.?(?:/|$))/[^\n/][^\n]*",
    hint="start with / and leave out ~, . and ..",
)
_REPOSITORY = Text(
    wanted_text="a repository",
    pattern=r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*",
    hint="write ORG/NAME as on the hub",
    limits_text="ORG/NAME",
)
_PATTERNS = Texts(
    pattern=r"[^\n/][^\n]{0,199}",
    item="a pattern of files",
    limits_text='patterns such as "*Q4_K_M*"',
)
_TOKENS = Count(1, MAX_TOKENS)

WEIGHTS_KEYS: Final = table(
    Key(
        name="path",
        field="path",
        kind=_ABSOLUTE_PATH,
        doc="The directory of the host that holds the weights; user sparkd must be able to read "
        "it.",
        default="`/var/lib/sparkd/models/ORG--NAME`, for repo: ORG/NAME",
    ),
    Key(
        name="repo",
        field="repo",
        kind=_REPOSITORY,
        doc="The repository from which the weights are fetched.",
        default="none",
    ),
    Key(
        name="revision",
        field="revision",
        kind=Text(
            wanted_text="a revision",
            pattern=r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*",
            hint="a branch, a tag or a commit",
            limits_text="branch, tag or commit",
        ),
        doc="Which revision of the repository.",
        default="its main branch",
    ),
    Key(
        name="include",
        field="include",
        kind=_PATTERNS,
        doc="The files to fetch, and no others; `*` matches `/` too.",
        default="one set of weights, with the files beside it",
    ),
    Key(
        name="exclude",
        field="exclude",
        kind=_PATTERNS,
        doc="Files to leave out.",
        default="`[]`",
    ),
)

ENGINE_KEYS: Final = table(
    Key(
        name="command",
        field="command",
        kind=CommandWords(),
        doc="Its command line, before the `args` of the entry.",
        default="required",
    ),
    Key(
        name="health",
        field="health",
        kind=Text(
            wanted_text="a path",
            pattern=r"/[!-\"$-~]*",
            hint="write it like /health",
            limits_text="begins with /",
        ),
        doc="The path at which it answers 200 once it is ready, and not before.",
        default=f"`{HEALTH_PATH}`",
    ),
)

FILE_KEYS: Final = table(
    Key(
        name="path",
        field="path",
        kind=_ABSOLUTE_PATH,
        doc="The file or directory of the host; user sparkd must be able to read it.",
        default="none",
    ),
    Key(
        name="url",
        field="url",
        kind=Text(
            wanted_text="an address",
            pattern=r"https?://[^\s/]+/\S*",
            hint="write https://HOST/PATH",
            limits_text="http or https",
        ),
        doc="Where `sparkctl pull` fetches the file.",
        default="none",
    ),
    Key(
        name="sha256",
        field="sha256",
        kind=Text(
            wanted_text="a checksum",
            pattern="[0-9a-f]{64}",
            hint="64 hex digits, as sha256sum prints them",
            limits_text="64 hex digits",
        ),
        doc="The checksum of the fetched file.",
        default="none",
    ),
    Key(
        name="repo",
        field="repo",
        kind=_REPOSITORY,
        doc="The repository of which `sparkctl pull` fetches one file.",
        default="none",
    ),
    Key(
        name="file",
        field="file",
        kind=Text(
            wanted_text="a file of the repository",
            pattern=r"(?!.*(?:^|/)\.\.?(?:/|$))[^\s/][^\n]*",
            hint="its path there, as tokenizer/vocab.json",
            limits_text="a path",
        ),
        doc="Which file of the repository.",
        default="none",
    ),
)

CLIENT_KEYS: Final = table(
    Key(
        name="context",
        field="context_tokens",
        kind=_TOKENS,
        doc="The context window that the client counts with.",
        default="`max_model_len`",
    ),
    Key(
        name="output",
        field="output_tokens",
        kind=_TOKENS,
        doc="The longest answer that it asks for.",
        default="a quarter of `context`, at most 8192",
    ),
    Key(
        name="options",
        field="options",
        kind=Options(),
        doc="Sampling options that it sends, such as `temperature`.",
        default="`{}`",
    ),
)

_LISTENING = "it decides where the model listens"
_NO_PROMPTS = "prompts and answers are never logged"
RESERVED_ARGS: Final = {
    "host": (_LISTENING, "leave it out; transport: tcp for servers without unix sockets"),
    "port": (_LISTENING, "leave it out; transport: tcp for servers without unix sockets"),
    "uds": (_LISTENING, "leave it out"),
    "served-model-name": ("a model is served under the id of its entry", "rename the entry"),
    "api-key": ("only sparkd reaches the model, and checks keys itself", "leave it out"),
    "model": ("it serves the weights of the entry", "write it under weights:"),
    "lora-modules": ("clients name an adapter by an id of its own", "write it under adapters:"),
    "config": (
        "options of a file are not checked",
        "write its options as args; for another server under engine: command",
    ),
    "download-dir": ("weights are fetched before the model starts", "write it under weights:"),
    "enable-log-requests": (_NO_PROMPTS, "leave it out"),
    "disable-log-requests": (_NO_PROMPTS, "leave it out; new versions of vLLM refuse it"),
    "enable-log-outputs": (_NO_PROMPTS, "leave it out"),
    "enable-log-deltas": (_NO_PROMPTS, "leave it out"),
    "disable-log-stats": ("by its statistics it sees that an engine hangs", "leave it out"),
    "disable-uvicorn-access-log": ("it logs each request itself", "leave it out"),
}
_NO_STATISTICS = ("no engine reports its use to anybody", "leave it out")
RESERVED_ENV: Final = {
    "VLLM_API_KEY": RESERVED_ARGS["api-key"],
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": (_NO_PROMPTS, "leave it out"),
    "VLLM_NO_USAGE_STATS": _NO_STATISTICS,
    "VLLM_DO_NOT_TRACK": _NO_STATISTICS,
    "DO_NOT_TRACK": _NO_STATISTICS,
}
