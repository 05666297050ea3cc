"""Whether the configured stores are set up for what they are to hold.

One instance for both would not do: under pressure it evicts counters and records too, or takes no
more of either. Measured with 200 MB of answers in 64 MB: of 5,000 counters `allkeys-lru` left 689
and `allkeys-lfu` none, and with `noeviction` counters could no longer be written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress

from gateway import config
from gateway.address import Address, names_cluster
from gateway.store import Store, StoreError, StoreRefused

_PATIENCE_SECONDS = 2.0
_START_PATIENCE_SECONDS = 0.5
_STATE, _CACHE = "state store", "cache store"
_SETTINGS = ("maxmemory-policy", "appendonly", "cluster-require-full-coverage")
_WANTED = {True: "noeviction", False: "allkeys-lfu"}


async def examine(stores: config.Store) -> list[tuple[str, bool, str]]:
    """Return a line for each configured store: what it is, whether it is well, and why."""
    found = []
    if stores.state:
        found.append((_STATE, *await _examine(stores.state, keeps_all=True)))
    if stores.cache:
        found.append((_CACHE, *await _examine(stores.cache, keeps_all=False)))
    if stores.state and stores.cache and _places(stores.state) & _places(stores.cache):
        found.append((_CACHE, False, "is the state store too: answers would displace counters"))
    return found


async def check_spelling(stores: config.Store) -> None:
    """Raise ConfigError where the URL of one server is that of a cluster's node.

    A store that does not answer soon passes, because the gateway starts without it too.
    """
    urls = {"store.state": stores.state, "store.cache": stores.cache}
    known = {key: url for key, url in urls.items() if url}
    faults = await asyncio.gather(*map(_misspelling, known.values()))
    if problems := [f"{key}: {fault}" for key, fault in zip(known, faults, strict=True) if fault]:
        raise config.ConfigError(*problems)


async def _misspelling(url: str) -> str:
    async with aclosing(Store(url, timeout_seconds=_START_PATIENCE_SECONDS)) as store:
        with suppress(StoreError):
            return await _fault(store, url)
    return ""


async def _fault(store: Store, url: str) -> str:
    """Return what is wrong with how the URL of `store` is spelt, if anything."""
    if store.is_cluster or not await _is_clustered(store):
        return ""
    scheme = "rediss" if url.startswith("rediss:") else "redis"
    return f"is a node of a cluster: begin its URL with '{scheme}+cluster://'"


async def _examine(url: str, *, keeps_all: bool) -> tuple[bool, str]:
    store = Store(url, timeout_seconds=_PATIENCE_SECONDS)
    try:
        if fault := await _fault(store, url):
            return False, fault
        settings = [_pairs(reply) for reply in await store.each("CONFIG", "GET", *_SETTINGS)]
    except StoreRefused:  # as managed servers do
        wanted = _WANTED[keeps_all]
        return True, f"answers; does not tell its maxmemory-policy, which should be {wanted}"
    except StoreError as exc:
        return False, f"does not answer: {exc}"
    finally:
        await store.aclose()
    return _judge(settings, keeps_all=keeps_all)


async def _is_clustered(store: Store) -> bool:
    try:
        return b"cluster_enabled:1" in await store.call("INFO", "cluster")
    except StoreRefused:
        return False


def _judge(masters: Sequence[dict[str, str]], *, keeps_all: bool) -> tuple[bool, str]:
    """Return whether the settings of all masters suit the store, and what they are."""
    policies = Counter(one.get("maxmemory-policy", "unknown") for one in masters)
    many = f", {len(masters)} masters" if len(masters) > 1 else ""
    told = ", ".join(
        policy if len(policies) == 1 else f"{policy} on {count}"
        for policy, count in sorted(policies.items())
    )
    if keeps_all and set(policies) != {"noeviction"}:
        return False, f"evicts what it must keep: set its maxmemory-policy {told} to noeviction"
    if not keeps_all and "noeviction" in policies:
        return (
            False,
            f"takes no more answers once it is full: set maxmemory-policy {told} to allkeys-lfu",
        )
    notes = _notes(masters) if keeps_all else ""
    return True, f"answers{many}, {told}{notes}"


def _notes(masters: Sequence[dict[str, str]]) -> str:
    """Return what is well enough, but had better be known."""
    notes = ""
    if any(one.get("appendonly") == "no" for one in masters):
        notes += "; without appendonly a restart loses records on their way to the book"
    if len(masters) > 1 and any(one.get(_SETTINGS[2]) == "yes" for one in masters):
        notes += f"; with {_SETTINGS[2]} one lost master stops all"
    return notes


def _pairs(reply: Sequence[bytes]) -> dict[str, str]:
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _places(url: str) -> set[tuple[str, int, str | None]]:
    known = Address.parse_seeds(url) if names_cluster(url) else (Address.parse(url),)
    return {(address.host, address.port, address.path) for address in known}
