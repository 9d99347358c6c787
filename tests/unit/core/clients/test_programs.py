# SPDX-License-Identifier: Apache-2.0
"""What clients are told: said for one before said for all, and the rest from what is served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparkd.core.clients.programs import calls_tools, is_offered, offer
from sparkd.core.model import Client, ClientLimits, ModelSpec, Rewrite, Status

PLAIN = ModelSpec(model_id="m", image="i", max_model_len=131072)


def test_a_model_without_limits_is_told_as_it_is_served() -> None:
    told = offer(PLAIN, Client.OPENCODE)
    assert (told.title, told.context_tokens, told.output_tokens) == ("m", 131072, 8192)
    assert (told.options, told.tools, told.reasoning, told.vision) == ((), False, False, False)


@pytest.mark.parametrize(("window", "output"), [(4096, 1024), (32768, 8192), (262144, 8192)])
def test_an_answer_may_take_a_quarter_of_the_window_and_no_more_than_8192(
    window: int, output: int
) -> None:
    assert offer(replace(PLAIN, max_model_len=window), Client.ALL).output_tokens == output


def test_a_model_whose_window_nobody_knows_is_told_without_limits() -> None:
    told = offer(replace(PLAIN, max_model_len=None), Client.CLINE)
    assert (told.context_tokens, told.output_tokens) == (None, None)


def test_what_is_said_for_a_client_goes_before_what_is_said_for_all() -> None:
    spec = replace(
        PLAIN,
        clients=(
            (
                Client.ALL,
                ClientLimits(
                    context_tokens=108000, output_tokens=4096, options=(("temperature", 1),)
                ),
            ),
            (Client.CLINE, ClientLimits(context_tokens=131072)),
        ),
    )
    cline, opencode = offer(spec, Client.CLINE), offer(spec, Client.OPENCODE)
    assert (cline.context_tokens, opencode.context_tokens) == (131072, 108000)
    assert (cline.output_tokens, opencode.output_tokens) == (4096, 4096)
    assert cline.options == opencode.options == (("temperature", 1),)


def test_tools_and_reasoning_follow_from_what_the_server_is_started_with() -> None:
    spec = replace(
        PLAIN, args=("--enable-auto-tool-choice", "--reasoning-parser", "qwen3"), vision=True
    )
    told = offer(spec, Client.OPENCODE)
    assert (told.tools, told.reasoning, told.vision) == (True, True, True)
    assert not calls_tools(replace(spec, rewrite=(Rewrite.STRIP_TOOLS,)))


@pytest.mark.parametrize(
    ("status", "offered", "experimental"),
    [
        (Status.VALIDATED, True, False),
        (Status.EXPERIMENTAL, True, True),
        (Status.MANUAL, False, True),
        (Status.DISABLED, False, True),
    ],
)
def test_status_decides_whether_a_model_is_offered(
    status: Status, offered: bool, experimental: bool
) -> None:
    spec = replace(PLAIN, status=status)
    assert is_offered(spec) is offered
    assert offer(spec, Client.ALL).experimental is experimental
