# SPDX-License-Identifier: Apache-2.0
"""The description at /openapi.json, held against the gateway by Schemathesis."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.system.hosts import BASE_URL, Host

from . import installed
from .wire import command, environment

EXAMPLES = 4
"""Random requests an operation, beside those that its schema suggests by itself."""
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
    *("unsupported_method", "allow_header_conformance"),
)
"""Not whether bodies that the description forbids are refused: most of a body is the engine's."""


def test_description_needs_no_key_and_wakes_nothing(host: Host) -> None:
    response = host.request("GET", "/openapi.json", key=None)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["openapi"].startswith("3.1")
    assert host.containers() == []


def test_what_is_described_with_a_key_needs_one_and_nothing_else_does(trixie: Host) -> None:
    described = trixie.request("GET", "/openapi.json", key=None).json()
    operations = [
        (method, path, bool(operation["security"]))
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    for method, path, guarded in operations:
        response = trixie.request(method, path.replace("{model}", "x"), key=None)
        assert (response.status_code == 401) == guarded, (method, path, response.text)


def test_no_answer_is_other_than_described(warm: Host, key: str, tmp_path: Path) -> None:
    described = warm.request("GET", "/openapi.json", key=None).json()
    written = tmp_path / "openapi.json"
    written.write_text(json.dumps(aimed(described)))
    argv: list[str | Path] = [
        *(installed.python("schemathesis"), "-m", "schemathesis.cli", "run", written),
        *("--url", BASE_URL, "--header", f"Authorization: Bearer {key}"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-database", "none"),
        # Its answer has no end.
        *("--exclude-path", "/events"),
        *("--continue-on-failure", "--request-timeout", "60", "--no-color"),
    ]
    done = subprocess.run(
        command(warm, *argv),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12000:]


def aimed(described: dict[str, Any]) -> dict[str, Any]:
    """The description with names of models in it that are there, and one that is not.

    Inference is asked of another model than the one that is loaded and unloaded all the time.
    """
    for path, methods in described["paths"].items():
        there = "fake-b" if path.startswith("/v1/") else "fake-util"
        models = {"type": "string", "enum": [there, "no-such-model"]}
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = models
            content = operation.get("requestBody", {}).get("content", {})
            for body in content.values():
                if "model" in body["schema"]["properties"]:
                    body["schema"]["properties"]["model"] = models
    return described
