# SPDX-License-Identifier: Apache-2.0
"""`sparkctl integrate`: a client's configuration, with our address, models and their limits.

It contains the key only on request, because users are likely to keep the output in a file.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sparkd.core.catalog.presence import refusal
from sparkd.core.clients.integrations import (
    FILES,
    Choice,
    Gateway,
    Target,
    choose,
    render,
    served_as,
)
from sparkd.core.errors import NotFound
from sparkd.runtime import build
from sparkd.sparkctl import catalog, gateway_address, output, privileges, system_units
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit, UsageError


def run(options: Options) -> Exit:
    url = checked_url(options.url) if options.url else system_units.url_of(system_units.read()[0])
    key = gateway_address.first_of_file(options.words) if options.with_key else None
    privileges.read_as_sparkd()
    config = catalog.load()
    named = [catalog.find(config, model_id) for model_id in options.models]
    survey = asyncio.run(build().presence.survey(config))
    here = [spec for spec in config.models.values() if not survey[spec.model_id]]
    menu = [served_as(spec, name) for spec, name in zip(named, options.models, strict=True)]
    choice = choose(here, menu)
    if choice is None:
        raise NotFound(
            "no model that chats is on this host",
            hint="sudo sparkctl models, then sudo sparkctl pull MODEL",
        )
    for spec in named:
        if survey[spec.model_id]:
            output.print_error(refusal(spec.model_id, survey[spec.model_id]))
    target, where = Target(options.client), Gateway(url=url, key=key)
    written = render(target, choice, where)
    if options.json:
        output.print_json(as_json(target, choice, where, written))
    else:
        print(written, end="")
    return Exit.OK


def checked_url(text: str) -> str:
    """The gateway's URL without the path that clients append. Raises UsageError."""
    url = urlsplit(text)
    path = url.path.rstrip("/").removesuffix("/v1")
    if url.scheme not in ("http", "https") or not url.netloc or path or url.query:
        raise UsageError(
            f"{text!r} is not the address of a gateway", hint="as in: --url http://spark:8009"
        )
    return f"{url.scheme}://{url.netloc}"


def as_json(target: Target, choice: Choice, gateway: Gateway, written: str) -> dict[str, object]:
    return {
        "client": target,
        "file": FILES[target],
        "base_url": gateway.base_url,
        "models": [spec.model_id for spec in choice.models],
        "configuration": written,
    }
