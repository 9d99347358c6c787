# SPDX-License-Identifier: Apache-2.0
"""The door: no handler but /healthz does anything before this lets the request in.

Each `Route` names the access that it requires.
"""

from __future__ import annotations

import logging
import time

from sparkd.adapters.journal.writer import fields
from sparkd.core.access import auth
from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.access.quota import WRONG_KEYS_MOST, origin_of
from sparkd.core.access.visibility import Visibility
from sparkd.core.errors import RequestError
from sparkd.core.telemetry.events import EventKind
from sparkd.gateway.context import Context
from sparkd.gateway.http.messages import Request

log = logging.getLogger(__name__)


def admitted(request: Request) -> Context:
    """The context, for a request whose key may do what the route does and has a read left.

    Every route but inference begins with this. Raises as `identified`.
    """
    context = identified(request)
    key = key_of(request)
    context.meters.of(key).read(key, time.monotonic())
    return context


def identified(request: Request) -> Context:
    """The context, for a request whose key may do what the route does; see `key_of`.

    Raises Unauthorized, Forbidden, TooManyRequests or Misconfigured.
    """
    context: Context = request.context
    headers = request.headers
    authorizations = headers.getall("authorization", (None,))
    if len(authorizations) > 1:
        raise RequestError(
            "the request has two Authorization headers", hint="send one key", code="bad_request"
        )
    digests = auth.presented(authorizations[0], headers.get("x-api-key"), headers.get("api-key"))
    address = origin_of(request.address)
    now_s, now = time.monotonic(), time.time()
    ring = context.keys.current(now_s)
    digest = auth.best_of(ring, digests, now)
    if digest not in ring.keys:
        # It may have been added a moment ago.
        ring = context.keys.current(now_s, at_once=True)
        digest = auth.best_of(ring, digests, now)
    if digest not in ring.keys and ring.error is None:
        _count_wrong(context, address, now_s)
    key = auth.identify(ring, digest, now)
    auth.require(key, request.access)
    context.require_usable()
    request.admit(key)
    return context


def _count_wrong(context: Context, address: str, now_s: float) -> None:
    """Count a key that this server does not have. Raises TooManyRequests after too many."""
    if context.wrong_keys.wrong(address, now_s) == WRONG_KEYS_MOST:
        log.warning(
            "%d wrong API keys came from %s; further wrong ones get 429 for a while",
            WRONG_KEYS_MOST,
            address,
            extra=fields(EventKind.WRONG_KEYS, address=address),
        )


def key_of(request: Request) -> ApiKey:
    """The key of a request that was admitted."""
    assert request.key is not None
    return request.key


def visibility_of(request: Request) -> Visibility:
    """The names that the client of a request may read, admitted or not."""
    context: Context = request.context
    return Visibility(context.config, request.key)


def is_admin(request: Request) -> bool:
    """Whether it was admitted with an admin's key."""
    return request.key is not None and Scope.ADMIN in request.key.scopes
