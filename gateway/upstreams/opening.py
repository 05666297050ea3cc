"""Replies of success, whose bodies are still to come: a call's place, headers and refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

from adapters import refusals
from adapters.base import Call
from adapters.errors import Rejected
from adapters.http import Reply
from adapters.native import unused_parameters, without_parameters
from gateway.upstreams.errand import Errand
from gateway.upstreams.watcher import watched

_SUCCESS = (HTTPStatus.OK, HTTPStatus.CREATED)  # that of a thing made to be waited for
_PAST_CACHES = {"x-use-cache": "0"}  # the native API's own switch
_LONGEST_ERROR_BYTES = 64 * 1024


async def open_accepted(errand: Errand, call: Call) -> Reply:
    """Open the reply, asked again without the parameters that the server refuses to be given.

    Which they are is remembered, so that the next request does without them at once.
    """
    target = errand.target
    known = target.unused_parameters
    try:
        return await open_reply(errand, without_parameters(call, known))
    except Rejected as exc:
        refused = unused_parameters(exc.message)
        if refused <= known:
            raise
    target.unused_parameters |= refused
    return await open_reply(errand, without_parameters(call, target.unused_parameters))


async def open_reply(errand: Errand, call: Call) -> Reply:
    """Return the reply of success, once it is the call's turn. Raises UpstreamError for others.

    The reply holds its place at the upstream until it is closed.
    """
    with watched(errand.target, success=None):
        return await _open_reply(errand, call)


async def _open_reply(errand: Errand, call: Call) -> Reply:
    target, upstream = errand.target, errand.target.upstream
    headers = headers_of(errand)
    leave = await upstream.gate.enter(errand.sender)
    target.outstanding += 1
    target.health.begin()

    def end() -> None:
        target.outstanding -= 1
        target.health.end()
        leave()

    try:
        reply = await upstream.server.open(call, headers=headers)
    except BaseException:
        end()
        raise
    reply.on_close = end
    if reply.status in _SUCCESS:
        return reply
    body = await reply.read(_LONGEST_ERROR_BYTES)
    raise refusals.from_response(
        reply.status,
        reply.headers,
        body,
        is_cold_by_status=upstream.is_cold_by_status,
        is_gated=target.is_gated,
    )


def headers_of(errand: Errand) -> Mapping[str, str]:
    """Return what goes with the call, besides what its dialect says.

    Only who asks for all after a model that is starting is held by the proxy until it has: it is
    known then that it starts, and the others do not each keep a connection there.
    """
    headers = dict(errand.trace)
    if not errand.request.use_cache:
        headers |= _PAST_CACHES
    upstream = errand.target.upstream
    if upstream.is_cold_by_status and errand.waits and errand.target.cold_start.loading:
        headers["x-scale-up-timeout"] = str(math.ceil(upstream.load_wait_seconds))
    return headers
