# SPDX-License-Identifier: Apache-2.0
"""What a key sees of the state of things: its own, and of the rest no names."""

from __future__ import annotations

from typing import Any

from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.observe.status import visible_to

DESCRIBED: dict[str, Any] = {
    "models": [{"id": "mine"}, {"id": "theirs"}],
    "gpu": {
        "holders": [
            {"pid": 1, "command": "vllm serve mine", "exclusive": False, "model": "mine"},
            {"pid": 2, "command": "vllm serve theirs", "exclusive": False, "model": "theirs"},
            {"pid": 3, "command": "train --token abc", "exclusive": True, "model": None},
        ]
    },
    "queue": [{"model": "mine"}, {"model": "theirs"}],
    "problems": ["models.d/x.yaml is wrong"],
    "keys": [{"name": "laptop"}, {"name": "other"}],
}
NOBODY = {"pid": None, "command": None, "model": None}


def key(*scopes: Scope, models: tuple[str, ...] = ()) -> ApiKey:
    return ApiKey(name="laptop", digest="", scopes=scopes, models=models)


def test_key_of_some_models_sees_nothing_that_names_another() -> None:
    seen = visible_to(key(Scope.INFERENCE, models=("mine",)), DESCRIBED)
    assert seen["models"] == [{"id": "mine"}]
    assert seen["queue"] == [{"model": "mine"}]
    assert seen["keys"] == [{"name": "laptop"}]
    assert seen["problems"] == []
    holders: Any = seen["gpu"]
    assert holders["holders"] == [
        DESCRIBED["gpu"]["holders"][0],
        {"exclusive": False, **NOBODY},
        {"exclusive": True, **NOBODY},
    ]
    assert "theirs" not in str(seen)


def test_key_without_administration_sees_no_command_of_a_foreign_program() -> None:
    seen: Any = visible_to(key(Scope.INFERENCE), DESCRIBED)
    assert [one["model"] for one in seen["gpu"]["holders"]] == ["mine", "theirs", None]
    assert "abc" not in str(seen)


def test_key_of_an_admin_sees_all_of_it() -> None:
    seen = visible_to(key(Scope.ADMIN), DESCRIBED)
    assert seen == {**DESCRIBED, "scopes": ["admin"]}
