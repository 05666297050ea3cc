"""The Hub's own API: what it says of one model."""

from __future__ import annotations

from http import HTTPStatus

import httpx
import msgspec

from adapters import refusals
from adapters.base import Call
from adapters.errors import Interrupted, UpstreamError
from adapters.http import Reply, Timeouts
from adapters.http import Upstream as Server
from gateway.config import ConfigError, Hub
from gateway.upstreams.providers import FIELDS, Facts, parse_facts
from gateway.upstreams.routed import HubName

_PATH = "/api/models/"
_QUERY = "&".join(f"expand={name}" for name in FIELDS)
_TIMEOUTS = Timeouts(connect_seconds=3, first_byte_seconds=5, total_seconds=5)
_LONGEST_ANSWER_BYTES = 1024 * 1024
_MOVED = frozenset({301, 302, 307, 308})


class HubApi:
    """Asks `server`. Raises ConfigError when the credential is not there, or cannot be sent."""

    def __init__(self, hub: Hub, transport: httpx.AsyncBaseTransport) -> None:
        try:
            self.server = Server(
                "hub",
                hub.address,
                transport=transport,
                headers={"authorization": f"Bearer {hub.api_key()}"},
                timeouts=_TIMEOUTS,
            )
        except ValueError as exc:
            raise ConfigError(f"hub.url or HF_ENDPOINT: {exc}") from None

    async def ask(self, id: str) -> Facts | None:
        """Return what the Hub says of the model, None if it has none. Raises UpstreamError."""
        reply, body = await self._get(id)
        if moved := _moved(reply):
            reply, body = await self._get(moved)
        if reply.status == HTTPStatus.OK:
            try:
                return parse_facts(body)
            except msgspec.DecodeError as exc:
                raise Interrupted("The Hub's answer cannot be read.") from exc
        if _says_missing(reply):
            return None
        raise _refusal(reply)

    async def _get(self, id: str) -> tuple[Reply, bytes]:
        reply = await self.server.open(Call(method="GET", path=_PATH + id, query=_QUERY, body=b""))
        return reply, await reply.read(_LONGEST_ANSWER_BYTES)


def _moved(reply: Reply) -> str | None:
    """Return the id that the Hub has the model under now, for one whose owner renamed it.

    Only an address without a host counts: nobody else is to be shown the token.
    """
    if reply.status not in _MOVED:
        return None
    path = reply.headers.get("location", "").partition("?")[0]
    name = HubName.parse(path.removeprefix(_PATH))
    return name.id if name and path.startswith(_PATH) else None


def _says_missing(reply: Reply) -> bool:
    """Tell whether there is no such model, or none for the account: it does not tell which."""
    return (
        reply.status == HTTPStatus.NOT_FOUND
        or reply.headers.get("x-error-code") == "RepoNotFound"
        or reply.status in _MOVED
    )


def _refusal(reply: Reply) -> UpstreamError:
    """Return what the Hub means by a status. Its words stay here: they could tell of the token."""
    if reply.headers.get("x-error-code") == "GatedRepo" or reply.status == HTTPStatus.FORBIDDEN:
        return refusals.gated()
    return refusals.from_response(reply.status, reply.headers, b"")
