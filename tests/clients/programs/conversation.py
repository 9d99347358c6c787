# SPDX-License-Identifier: Apache-2.0
"""What the programs around Python libraries share: a line of JSON in, what came of it out.

A program serves until its input ends, so that a library is loaded once for all tests. It has a
function for each verb; `ask` in a request holds its arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Verb = Callable[..., dict[str, Any]]

TOOL = "add"
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


def add(arguments: str | Mapping[str, Any]) -> str:
    """What the tool does that the model is offered."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    return f"the sum is {given['a'] + given['b']}"


def serve(verbs: Mapping[str, Verb]) -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            told = verbs[request["verb"]](**request["ask"])
        except Exception as error:
            told = {
                "error": type(error).__name__,
                "status": getattr(error, "status_code", None),
                "message": str(error),
            }
        print(json.dumps(told), flush=True)
