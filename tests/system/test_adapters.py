# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: ids of their own, answered by the server of their model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import Host, answer_of

WEIGHTS = "/srv/adapters/sql"
ENTRY = f"""\
models:
  lora-base:
    image: localhost/sparkd-fake-vllm:latest
    weights: none
    lifecycle: utility
    args: [--fake-load-seconds, 0.2]
    adapters:
      sql-lora: {{path: {WEIGHTS}}}
"""


@pytest.fixture
def adapted(host: Host) -> Iterator[Host]:
    with host.file("/etc/sparkd/models.d/lora.yaml", ENTRY):
        host.run("systemctl", "restart", "sparkd.service")
        yield host
        host.run("sparkctl", "stop", "--now", "lora-base", check=False)
    host.run("rm", "-rf", WEIGHTS)
    host.run("systemctl", "restart", "sparkd.service")


def test_adapter_is_missing_then_fetched_then_answers_under_its_own_id(adapted: Host) -> None:
    error = adapted.chat("sql-lora").json()["error"]
    assert error["code"] == "weights_missing"
    assert WEIGHTS in error["message"]
    adapted.sh(f"mkdir -p {WEIGHTS} && echo '{{\"r\": 8}}' > {WEIGHTS}/adapter_config.json")

    response = adapted.chat("sql-lora", "one")
    assert answer_of(response) == "echo: one"
    assert response.json()["model"] == "sql-lora"
    assert adapted.chat("lora-base", "two").json()["model"] == "lora-base"
    assert adapted.chat("openai/SQL-LoRA", "three").json()["model"] == "sql-lora"
    assert adapted.sh("sparkctl ps --json | grep -c '\"id\"'") == "1"

    listed = adapted.request("GET", "/v1/models").json()["data"]
    parents = {one["id"]: one.get("parent") for one in listed if "lora" in one["id"]}
    assert parents == {"lora-base": None, "sql-lora": "lora-base"}
    one = adapted.request("GET", "/v1/models/sql-lora").json()
    assert (one["id"], one["parent"], one["state"]) == ("sql-lora", "lora-base", "ready")
    metrics = adapted.request("GET", "/metrics").text
    assert 'sparkd_requests_total{model="lora-base"' in metrics
    assert "sql-lora" not in "".join(x for x in metrics.split("\n") if x.startswith("sparkd_"))


def test_key_for_an_adapter_alone_cannot_use_its_model(adapted: Host) -> None:
    adapted.sh(f"mkdir -p {WEIGHTS} && echo '{{\"r\": 8}}' > {WEIGHTS}/adapter_config.json")
    added = adapted.run("sparkctl", "key", "add", "lora", "--model", "sql-lora").stdout
    key = added.splitlines()[-1]
    try:
        body = {"messages": [{"role": "user", "content": "x"}]}
        asked = {
            model: adapted.request(
                "POST", "/v1/chat/completions", json={**body, "model": model}, key=key
            ).status_code
            for model in ("sql-lora", "lora-base")
        }
        assert asked == {"sql-lora": 200, "lora-base": 403}
        listed = adapted.request("GET", "/v1/models", key=key).json()["data"]
        assert [one["id"] for one in listed] == ["sql-lora"]
    finally:
        adapted.run("sparkctl", "key", "revoke", "lora")
