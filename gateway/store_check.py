"""Whether the configured stores are set up for what they are to hold.

One instance for both would not do: under pressure it evicts counters and records too, or takes no
more of either. Measured with 200 MB of answers in 64 MB: of 5,000 counters `allkeys-lru` left 689
and `allkeys-lfu` none, and with `noeviction` counters could no longer be written.
"""

from __future__ import annotations

from gateway import config
from gateway.address import Address
from gateway.store import Store, StoreError, StoreRefused

_PATIENCE_SECONDS = 2.0
_STATE, _CACHE = "state store", "cache store"


async def examine(stores: config.Store) -> list[tuple[str, bool, str]]:
    """Return a line for each configured store: what it is, whether it is well, and why."""
    found = []
    if stores.state:
        found.append((_STATE, *await _examine(stores.state, keeps_all=True)))
    if stores.cache:
        found.append((_CACHE, *await _examine(stores.cache, keeps_all=False)))
    if stores.state and stores.cache and _place(stores.state) == _place(stores.cache):
        found.append((_CACHE, False, "is the state store too: answers would displace counters"))
    return found


async def _examine(url: str, *, keeps_all: bool) -> tuple[bool, str]:
    store = Store(url, timeout_seconds=_PATIENCE_SECONDS)
    try:
        reply = await store.call("CONFIG", "GET", "maxmemory-policy")
    except StoreRefused:  # as managed servers do
        wanted = "noeviction" if keeps_all else "allkeys-lfu"
        return True, f"answers; does not tell its maxmemory-policy, which should be {wanted}"
    except StoreError as exc:
        return False, f"does not answer: {exc}"
    finally:
        await store.aclose()
    policy = reply[1].decode() if len(reply) == 2 else "unknown"
    if keeps_all and policy != "noeviction":
        return False, f"evicts what it must keep: set its maxmemory-policy {policy} to noeviction"
    if not keeps_all and policy == "noeviction":
        return False, "takes no more answers once it is full: set maxmemory-policy to allkeys-lfu"
    return True, f"answers, {policy}"


def _place(url: str) -> tuple[str, int, str | None]:
    address = Address.parse(url)
    return address.host, address.port, address.path
