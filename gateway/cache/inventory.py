"""What the cache store holds: told and cleared page by page, so that nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.cache.files import AnswerFiles
from gateway.cache.keys import parse_storage_key, pattern
from gateway.cache.records import BadRecord, decode
from gateway.store import Store, StoreRefused

TOTALS_KEY = "cache:stats"
TOTALS = ("hits", "misses", "shared", "bypassed", "stored", "too_large", "corrupt", "errors")

_PAGE = 500  # keys that the server looks at in one go: 0.2 ms
_REFERENCE_BYTES = 512  # more than a value has that stands for a file


@dataclass(slots=True)
class Holding:
    """What is kept of one model's answers. `size_bytes` is that of the values, as they are kept."""

    answers: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The memory of the cache server, 0 for no limit, and the keys that it evicted for room."""

    used_bytes: int
    limit_bytes: int
    evicted_keys: int


@dataclass(slots=True)
class Cleared:
    """How much was deleted. `files` are those that stood behind some of the answers."""

    answers: int = 0
    files: int = 0


async def holdings(cache: Store) -> dict[str, Holding]:
    """Return what is kept by the model's id. Raises StoreError.

    An answer that comes, goes or moves meanwhile may count or not, or twice.
    """
    found: dict[str, Holding] = {}
    async for page in cache.scan(pattern(), page=_PAGE):
        sizes = await _for_each(cache, page, "STRLEN")
        for key, size_bytes in zip(page, sizes, strict=True):
            if (place := _parse(key)) and size_bytes:
                _, model = place
                holding = found.setdefault(model, Holding())
                holding.answers += 1
                holding.size_bytes += size_bytes
    return dict(sorted(found.items()))


async def describe_server(cache: Store) -> Server:
    """Return how full the server is; of a cluster, all masters together. Raises StoreError."""
    told = await asyncio.gather(cache.each("INFO", "memory"), cache.each("INFO", "stats"))
    masters = [_figures(memory + b"\r\n" + stats) for memory, stats in zip(*told, strict=True)]
    return Server(
        used_bytes=sum(one.used_bytes for one in masters),
        limit_bytes=_sum_of_limits([one.limit_bytes for one in masters]),
        evicted_keys=sum(one.evicted_keys for one in masters),
    )


async def totals(cache: Store) -> dict[str, int]:
    """Return what all workers counted since the server began, by TOTALS. Raises StoreError."""
    counted = await cache.call("HMGET", TOTALS_KEY, *TOTALS)
    return {name: int(count or 0) for name, count in zip(TOTALS, counted, strict=True)}


async def clear(
    cache: Store, files: AnswerFiles, *, model: str | None = None, scope: str | None = None
) -> Cleared:
    """Delete all answers, or those of a model, or of a scope, and their files.

    Answers that are kept meanwhile may stay. Raises StoreError and OSError.
    """
    cleared = Cleared()
    async for page in cache.scan(pattern(model, scope), page=_PAGE):
        heads = await _for_each(cache, page, "GETRANGE", 0, _REFERENCE_BYTES - 1)
        cleared.answers += sum(await _for_each(cache, page, "UNLINK"))
        names = filter(None, map(_file_of, page, heads))
        cleared.files += sum(files.remove(name) for name in names)
    return cleared


def _figures(info: bytes) -> Server:
    figures = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return Server(
        used_bytes=int(figures.get("used_memory", 0)),
        limit_bytes=int(figures.get("maxmemory", 0)),
        evicted_keys=int(figures.get("evicted_keys", 0)),
    )


def _sum_of_limits(limits: Sequence[int]) -> int:
    return sum(limits) if all(limits) else 0  # one without a limit: there is none for all


async def _for_each(cache: Store, keys: Sequence[bytes], command: str, *args: int) -> list[Any]:
    """Return the reply to a command for each key, 0 where it holds no string."""
    # A command for each: one for all would be refused by a cluster.
    replies = await asyncio.gather(
        *(cache.call(command, key, *args) for key in keys), return_exceptions=True
    )
    for reply in replies:
        if isinstance(reply, BaseException) and not _is_other_type(reply):
            raise reply
    return [0 if isinstance(reply, BaseException) else reply for reply in replies]


def _is_other_type(error: BaseException) -> bool:
    return isinstance(error, StoreRefused) and error.code == "WRONGTYPE"


def _parse(key: bytes) -> tuple[str, str] | None:
    return parse_storage_key(key.decode(errors="replace"))


def _file_of(key: bytes, head: bytes) -> str | None:
    """Return the name of the file that an answer's value stands for, if it does."""
    place = _parse(key)
    if not (place and head):
        return None
    try:
        return decode(head, digest=place[0]).file
    except BadRecord:  # it is longer than its head: it is no reference
        return None
