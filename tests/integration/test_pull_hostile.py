# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pull` from a hub that says anything: one clear error, within bounds, or the weights."""

from __future__ import annotations

import json
import time

import pytest

from sparkd.sparkctl.exit_codes import Exit

from .test_pull import FILES, Hub, hub

__all__ = ["hub"]
pytestmark = pytest.mark.integration

COMMIT = "a" * 40


@pytest.mark.parametrize(
    "reply",
    [
        "[" * 100_000,
        "null",
        json.dumps({"sha": COMMIT, "siblings": ["x"]}),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "../x", "size": 1}]}),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "a", "size": 1, "lfs": {}}]}),
    ],
    ids=["deep", "null", "texts", "outside", "no-checksum"],
)
def test_listing_that_is_none_is_one_error_with_a_hint(hub: Hub, reply: str) -> None:
    hub.behave(reply=reply)
    code, out, err = hub.pull()
    assert (code, out) == (Exit.FETCH_FAILED, "")
    first, second = err.splitlines()
    assert first.startswith("sparkctl: ")
    assert second.startswith("  hint: ")
    assert len(err) < 800


@pytest.mark.parametrize("only", ["/api/", "/encoding"])
def test_body_without_an_end_is_given_up(hub: Hub, only: str) -> None:
    hub.behave(only=only, endless=True)
    began_s = time.monotonic()
    code, _, err = hub.pull("small" if only == "/api/" else "files")
    assert code == Exit.FETCH_FAILED
    assert "more than" in err or "longer than" in err
    assert time.monotonic() - began_s < 120
    assert hub.part_sizes() in ([], [0])


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", "redirects to no address of HTTP"),
        ("ftp://127.0.0.1/x", "redirects to no address of HTTP"),
        ("http://[", "redirects to no address of HTTP"),
        ("http://a:99999/", "redirects to no address of HTTP"),
        ("/again", "more than 5 redirects"),
    ],
)
def test_redirect_to_nowhere_is_one_error(hub: Hub, location: str, said: str) -> None:
    hub.behave(status=302, headers={"location": location})
    code, _, err = hub.pull()
    assert code == Exit.FETCH_FAILED
    assert said in err
    assert "Traceback" not in err


def test_token_does_not_follow_a_redirect_of_a_listing(hub: Hub) -> None:
    token = hub.state.parent / "config/hf-token"
    token.write_text("hf_planted\n")
    token.chmod(0o640)
    target = f"http://127.0.0.1:{hub.other_port}/x"
    hub.behave(only="/api/", status=302, headers={"location": target}, times=1)
    hub.pull()
    asked = {one["port"]: one["authorization"] for one in hub.requests()}
    assert asked == {hub.port: "Bearer hf_planted", hub.other_port: None}


def test_renamed_repository_is_fetched_and_its_new_name_told(hub: Hub) -> None:
    catalog = hub.state.parent / "catalog/renamed.yaml"
    catalog.write_text("models: {renamed: {image: localhost/x, weights: {repo: org/old-name}}}\n")
    code, _, err = hub.pull("renamed")
    assert code == Exit.OK, err
    assert "org/old-name is org/name now; write that as its repo" in err
    assert (hub.state / "models/org--old-name/config.json").read_bytes() == FILES["config.json"]


def test_limit_of_the_hub_is_waited_for_as_told(hub: Hub) -> None:
    hub.behave(only="/api/", status=429, times=1, headers={"ratelimit": '"api";r=0;t=3'})
    began_s = time.monotonic()
    code, _, err = hub.pull()
    assert code == Exit.OK, err
    assert "again in 3 s" in err
    assert time.monotonic() - began_s >= 3


def test_limit_that_lasts_too_long_is_an_error_that_says_until_when(hub: Hub) -> None:
    message = "You have reached the limit\x1b[2J of requests"
    headers = {"ratelimit": '"api";r=0;t=7200', "x-error-message": message.replace("\x1b", "")}
    hub.behave(status=429, headers=headers)
    code, _, err = hub.pull()
    assert code == Exit.FETCH_FAILED
    assert "You have reached the limit" in err
    assert "it wants no request until" in err
    assert "UTC" in err


def test_include_of_an_entry_fetches_these_files_only(hub: Hub) -> None:
    catalog = hub.state.parent / "catalog/chosen.yaml"
    catalog.write_text(
        "models: {chosen: {image: localhost/x, weights: {repo: org/name, path: "
        f"{hub.state}/chosen, include: ['*.json'], exclude: ['sub/*']}}}}}}\n"
    )
    code, _, err = hub.pull("chosen")
    assert code == Exit.OK, err
    assert "leaves out 6, " in err
    found = {path.name for path in (hub.state / "chosen").iterdir()}
    assert found == {"config.json", ".sparkd-pull.json"}


def test_hub_whose_address_is_none_is_one_error(hub: Hub) -> None:
    code, _, err = hub.pull(HF_ENDPOINT="http://[")
    assert code != Exit.OK
    assert "the address of the hub is none" in err
    assert "Traceback" not in err
