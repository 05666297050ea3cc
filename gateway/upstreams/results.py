"""What an upstream does not send along but keeps for a while, fetched from there."""

from __future__ import annotations

import httpx

from adapters.base import Json, Link, Media
from adapters.errors import Interrupted
from gateway.fetching import FetchFailed, ImageFetcher

_LONGEST_BYTES = 64 * 1024 * 1024
_TOTAL_SECONDS = 60.0
_PORTS = frozenset({443})


class Results:
    """Fetches what answers link to, over TLS and from public addresses only.

    Nothing of the gateway's own is sent there, its credentials least of all.
    """

    def __init__(self, fetcher: ImageFetcher | None = None) -> None:
        self._fetcher = fetcher

    async def fetched(self, answer: Json) -> Json:
        """Return `answer` with Media in place of each Link. Raises Interrupted."""
        if isinstance(answer.get("media"), Link):
            return answer | {"media": await self._fetch(answer["media"])}
        items = answer.get("data")
        if isinstance(items, list) and any("media" in item for item in items):
            return answer | {"data": [await self.fetched(item) for item in items]}
        return answer

    async def _fetch(self, link: Link) -> Media:
        if not _is_below(link):
            raise Interrupted("The upstream keeps its answer where it is not fetched from.")
        try:
            return Media(await self._opened().fetch(link.url))
        except FetchFailed as exc:
            raise Interrupted(
                "The upstream's answer could not be fetched from where it keeps it."
            ) from exc

    def _opened(self) -> ImageFetcher:
        """Return the fetcher, made when it is first needed: few upstreams answer with links."""
        if self._fetcher is None:
            self._fetcher = ImageFetcher(
                accept="*/*",
                is_wanted=len,
                limit_bytes=_LONGEST_BYTES,
                total_seconds=_TOTAL_SECONDS,
                ports=_PORTS,
            )
        return self._fetcher


def _is_below(link: Link) -> bool:
    """Tell whether the link leads to one of its hosts, read as the fetcher reads it."""
    try:
        url = httpx.URL(link.url)
    except httpx.InvalidURL:
        return False
    host = url.host.rstrip(".")
    is_told = any(host == one or host.endswith(f".{one}") for one in link.hosts)
    return is_told and url.scheme == "https" and not url.userinfo
