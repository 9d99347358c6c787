# SPDX-License-Identifier: Apache-2.0
"""From a request body to the engine's body, by the named rules of the model's entry.

Pure, and the order of the rules is this table's, not the entry's. The rules themselves are in
`rewriting`, one idea a module; each returns the very object it was given when there is nothing to
change, so that a body which needs nothing is known by identity and goes on byte for byte.
docs/reference/rewriting.md has every rule with an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sparkd.core.model import Dialect, ModelSpec, Rewrite
from sparkd.core.rewriting import caps, roles, texts, thinking, tools

Body = dict[str, Any]
Rule = Callable[[ModelSpec, Dialect, Body], Body]

_CHAT = frozenset({Dialect.CHAT})
_WITH_TOOLS = frozenset({Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES})
_GENERATING = _WITH_TOOLS | {Dialect.COMPLETIONS}

RULES: Final[Mapping[Rewrite, tuple[frozenset[Dialect], Rule]]] = {
    Rewrite.TEXT_CONTENT: (_CHAT, texts.join_parts),
    # Before the merge: its instruction is a system message like any other.
    Rewrite.STRICT_TOOL_WORDING: (_CHAT, tools.word_strictly),
    Rewrite.ROLE_ALTERNATION: (_CHAT, roles.alternate),
    # Before the cap: tools that the model never sees take no tokens.
    Rewrite.STRIP_TOOLS: (_WITH_TOOLS, tools.strip),
    Rewrite.FORCE_TOOLS: (_WITH_TOOLS, tools.force),
    Rewrite.CAP_TOKENS: (_GENERATING, caps.cap),
    Rewrite.CAP_TOKENS_BY_ESTIMATE: (_GENERATING, caps.cap_by_estimate),
    Rewrite.THINKING_FLAG: (_CHAT, thinking.move_flag),
    Rewrite.BINARY_REASONING_EFFORT: (_CHAT, thinking.reduce_effort),
    # Last: it fills in what neither the client nor the rules before have said.
    Rewrite.DEFAULT_NON_THINKING: (_WITH_TOOLS, thinking.default_to_none),
}


def rewrite(spec: ModelSpec, dialect: Dialect, body: Body) -> Body:
    """The body for the engine; `body` itself when nothing changes. Raises RequestError."""
    for name, (dialects, rule) in RULES.items():
        if name in spec.rewrite and dialect in dialects:
            body = rule(spec, dialect, body)
    return body
