# SPDX-License-Identifier: Apache-2.0
"""The hint for a wrong value: the probably intended value, in a valid form.

A hint that leads to the next refusal is worse than none, so each suggestion is in the range of its
key. Also the names that other tools have for keys of an entry. Pure.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping

from sparkd.core.quantities import format_duration, format_size

_DIGITS = re.compile(r"[0-9]{1,15}")
_LOOSE_SIZE = re.compile(
    r"([0-9]{1,12})(?:\.([0-9]{1,6}))? ?([kmgt]?)i?(?:b|bytes)?", re.IGNORECASE
)
_LOOSE_PART = re.compile(
    r"([0-9]{1,9})(?:\.([0-9]{1,3}))? ?"
    r"(ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d) ?",
    re.IGNORECASE,
)
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_UNIT_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PLAIN = re.compile(r"-{0,2}[A-Za-z0-9_/][A-Za-z0-9_./=-]*")
_PLAIN_TEXT = re.compile(r"(?:--?)?[A-Za-z_/][A-Za-z0-9_./=-]*")
_SPECIAL = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML takes for another thing than a text."""
_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ADDRESS = re.compile(
    rf"(?:https?://[^/\s]+/|hf://|hf:|huggingface:)?({_REPOSITORY})"
    r"(?:/(?:tree|resolve|blob)/([A-Za-z0-9._-]+)(?:/.*)?|[@:]([A-Za-z0-9][A-Za-z0-9._-]*))?/?"
)
_ABSOLUTE = re.compile(r"(?!.*/\.\.?(?:/|$))/[^\n/][^\n]*")
_LIST_CHARS = 200

FOREIGN_KEYS: Mapping[str, str] = {
    "restart": "leave it out; sparkd starts a model when a client asks for it",
    "ports": "leave it out; clients reach every model at the gateway",
    "port": "leave it out; clients reach every model at the gateway",
    "expose": "leave it out; clients reach every model at the gateway",
    "proxy": "leave it out; clients reach every model at the gateway",
    "networks": "leave it out; network: true gives the container a network",
    "depends_on": "leave it out; lifecycle says which models run side by side",
    "container_name": "leave it out; sparkd names the container",
    "healthcheck": "leave it out; engine: {health: /PATH} is for another server than vLLM",
    "checkEndpoint": "leave it out; engine: {health: /PATH} is for another server than vLLM",
    "deploy": "gpu: all",
    "runtime": "gpu: all",
    "gpus": "gpu: all",
    "devices": "gpu: all",
    "environment": "write it as env: {NAME: VALUE}",
    "env_file": "write its variables as env: {NAME: VALUE}",
    "volumes": "write weights: {path: /DIRECTORY}, and files: {/IN/CONTAINER: {path: /ON/HOST}}",
    "command": "write the options as args: [--OPTION, VALUE]",
    "cmd": "write the options as args: [--OPTION, VALUE]",
    "entrypoint": "write engine: {command: [PROGRAM, ...]} for another server than vLLM",
    "ttl": "write it as idle_timeout: 20m",
    "model": "write it as weights: {repo: ORG/NAME}",
    "repo": "write it as weights: {repo: ORG/NAME}",
    "container": "write it as image: REGISTRY/NAME:TAG",
    "privileged": "leave it out; no model gets more rights",
    "ipc": "leave it out; shm_size: 1GiB sets the size of /dev/shm",
    "ulimits": "leave it out; sparkd sets them",
}
"""Keys of Compose, llama-swap and sparkrun for one model, with the way to say it here."""

_FOREIGN_FILES = (
    ("a Compose file", ("services",)),
    ("a recipe of sparkrun", ("recipe_version",)),
    ("a recipe of sparkrun", ("runtime", "container")),
    ("a configuration of llama-swap", ("healthCheckTimeout",)),
    ("a configuration of llama-swap", ("startPort",)),
    ("a configuration of llama-swap", ("macros",)),
    ("a configuration of llama-swap", ("groups",)),
    ("a configuration of LiteLLM", ("model_list",)),
)


def size_hint(text: str, least: int, most: int) -> str:
    """The size that was probably meant, or how to write one."""
    found = _LOOSE_SIZE.fullmatch(text)
    general = f"write it like {_example(least, most)}"
    if found is None:
        return general
    whole, fraction, unit = found[1], found[2], found[3].lower()
    if unit or fraction is not None or "b" in text.lower():
        size = _fraction(whole, fraction) * _UNIT_BYTES[unit] // 10**6
        if not least <= size <= most:
            return general
        return f"units are powers of two: {format_size(size)}"
    number = int(whole)
    # Docker's shm_size is in bytes; a small number is meant in GiB, one between in MiB.
    unit = "g" if number < 1024 else "m" if number < 1 << 20 else ""
    for candidate in (unit, "g", "m", "k", ""):
        size = number * _UNIT_BYTES[candidate]
        if least <= size <= most:
            return f"a unit is missing: {format_size(size)}"
    return general


def duration_hint(text: str, least_s: float, most_s: float) -> str:
    """The duration that was probably meant, or how to write one."""
    if _DIGITS.fullmatch(text):
        for unit in ("s", "m", "h"):
            if least_s <= int(text) * _UNIT_S[unit] <= most_s:
                return f"a unit is missing: {int(text)}{unit}"
        return f"{format_duration(least_s)} to {format_duration(most_s)}"
    rest, total_s = text[:60], 0.0
    while rest and (part := _LOOSE_PART.match(rest)):
        number = _fraction(part[1], part[2]) / 10**6
        total_s += number * _UNIT_S["ms" if part[3].lower() == "ms" else part[3][0].lower()]
        rest = rest[part.end() :]
    if rest or len(text) > 60 or not least_s <= total_s <= most_s or not total_s:
        return f"write it like {format_duration(min(max(90, least_s), most_s))}"
    return f"write {format_duration(total_s)}"


def list_hint(text: str, *, words: bool) -> str:
    """A text as the list that was meant; `words` are separated as a shell does."""
    if len(text) > _LIST_CHARS or not text.isprintable():
        return "write a list: [ITEM, ITEM]"
    try:
        items = shlex.split(text) if words else [text]
    except ValueError:
        items = text.split()
    # `--option=value with blanks` stays one word of the command line.
    return f"write [{', '.join(_flow(item, numbers=words) for item in items)}]"


def weights_hint(text: str) -> str:
    """The weights that were probably meant, as a mapping."""
    if text.startswith(("/", "~", ".")):
        rest = re.sub(r"^(?:~[^/]*|\.{1,2})(?:/|$)", "/FULL/PATH/", text).rstrip("/")
        if not _ABSOLUTE.fullmatch(rest):
            return "write weights: {path: /DIRECTORY}"
        return f"write weights: {{path: {_flow(rest)}}}" + (
            "" if rest == text else "; it is an absolute path, which the user sparkd can read"
        )
    found = _HUB_ADDRESS.fullmatch(text)
    if found is not None and ".." not in text:
        revision = found[2] or found[3]
        more = f", revision: {json.dumps(revision)}" if revision and revision != "main" else ""
        return f"write weights: {{repo: {found[1]}{more}}}"
    return "write weights: {repo: ORG/NAME} or weights: {path: /DIRECTORY}"


def foreign_file(names: Mapping[str, object]) -> str | None:
    """The tool that a file with these keys at its top is for; None for a file of sparkd."""
    for what, keys in _FOREIGN_FILES:
        if all(key in names for key in keys):
            return what
    return None


def _flow(text: str, *, numbers: bool = False) -> str:
    """The text in a list of YAML; `numbers` may stay bare where any scalar is a word."""
    bare = _PLAIN if numbers else _PLAIN_TEXT
    if bare.fullmatch(text) and text.lower() not in _SPECIAL:
        return text
    return json.dumps(text, ensure_ascii=False)


def _fraction(whole: str, fraction: str | None) -> int:
    """A decimal in millionths."""
    return int(whole) * 10**6 + int((fraction or "").ljust(6, "0")[:6])


def _example(least: int, most: int) -> str:
    for size in (1 << 30, 1 << 20, most):
        if least <= size <= most:
            return format_size(size)
    return format_size(least)
