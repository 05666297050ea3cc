"""Where the parts of a job come from: the cache, a request under way, or an upstream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import sha256
from typing import Self

import msgspec

from gateway import config
from gateway.cache.bus import Bus
from gateway.cache.counters import Counts, Totals
from gateway.cache.files import AnswerFiles
from gateway.cache.flight import Seat, Wanted
from gateway.cache.flights import Flights
from gateway.cache.keeper import Keeper, Place
from gateway.cache.policy import Policy, Use
from gateway.cache.records import Record
from gateway.cache.shelf import Found as Kept
from gateway.cache.shelf import Shelf
from gateway.errors import BadRequest
from gateway.exchange import Exchange, Job, Route
from gateway.found import CacheStatus, Found
from gateway.store import Stores
from gateway.tapes import Direct, Part, Piece, Recipe, Recorded, Tape, close_all

# What a client chooses of the form of its answer, which is made of the same parts in any form.
_FORMS = frozenset("model stream stream_options stream_format response_format include".split())
_LARGE_BYTES = 1024 * 1024
_encode = msgspec.json.Encoder(order="deterministic").encode


class NoCache:
    """Stands for a cache where there is no store: finds and keeps nothing."""

    @property
    def troubles(self) -> dict[str, int]:
        """Nothing goes wrong."""
        return {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def find(self, exchange: Exchange, route: Route, job: Job) -> Found:
        """Return parts that are made for this exchange alone. Raises as `Cache.find`."""
        if exchange.directives.only_if_cached:
            raise _not_cached()
        return Found.bypass(job.parts)


class Cache:
    """The cache of one worker. Its stores are closed after it, by their owner."""

    def __init__(self, settings: config.Cache, stores: Stores, files: AnswerFiles | None) -> None:
        self._counts = Counts()
        self._policy = Policy(settings)
        self._charge = settings.share
        self._shelf = Shelf(stores.cache)
        bus = Bus(stores.cache, worker_id=secrets.token_hex(8))
        self._flights = Flights(self._shelf, bus)
        largest_bytes = int(settings.max_value_mb * 1024 * 1024)
        self._keeper = Keeper(self._shelf, files, self._counts, largest_bytes=largest_bytes)
        self._totals = Totals(stores.cache, lambda: self.counts)

    @property
    def counts(self) -> Counts:
        """What was counted since this worker began, the store's own trouble included."""
        return replace(self._counts, errors=self._counts.errors + self._shelf.troubles)

    @property
    def troubles(self) -> dict[str, int]:
        """What went wrong since this worker began: `store`, `files`, `corrupt` values."""
        counts = self._counts
        return {
            "store": self._shelf.troubles,
            "files": counts.errors,
            "corrupt": counts.corrupt,
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._totals)
            await opening.enter_async_context(self._flights)
            self._closing = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is under way, and tell the other workers."""
        await self._closing.aclose()

    async def find(self, exchange: Exchange, route: Route, job: Job) -> Found:
        """Return a tape for each part of a job. One trip to the store, for what may be kept.

        Raises BadRequest (504) if the client wants only what is kept, and it is not.
        """
        use = self._policy.use(exchange, route, job)
        if use.obstacle:
            if exchange.directives.only_if_cached:
                raise _not_cached()
            self._counts.bypassed += 1
            return Found.bypass(job.parts)
        parts = [await self._wanted(exchange, route, part) for part in job.parts]
        taken = await _all_of([partial(self._take, exchange, use, *part) for part in parts])
        found = _found(exchange, taken, charge=self._charge)
        self._count(found.status)
        return found

    async def _wanted(self, exchange: Exchange, route: Route, part: Part) -> tuple[Place, Wanted]:
        recipe = part.recipe()
        find = partial(self._policy.place, exchange, route, recipe)
        place = await asyncio.to_thread(find) if _is_large(recipe) else find()
        wanted = Wanted(
            part=part,
            storage_key=place.storage_key,
            lock_key=place.lock_key,
            keep=partial(self._keeper.keep, place, exchange.id),
            load=partial(self._pieces, place),
        )
        return place, wanted

    async def _take(self, exchange: Exchange, use: Use, place: Place, wanted: Wanted) -> _Taken:
        """Return the tape of one part. Raises BadRequest."""
        if not use.is_written:
            found = await self._shelf.get(place.storage_key) if use.is_read else None
            if isinstance(found, Kept) and (taken := await self._replay(exchange, place, found)):
                return taken
            if exchange.directives.only_if_cached:
                raise _not_cached()
            return _Taken(Direct(wanted.part))
        entered = await self._flights.enter(wanted, anew=not use.is_read)
        if isinstance(entered, Kept):
            if taken := await self._replay(exchange, place, entered):
                return taken
            entered = await self._flights.enter(wanted, anew=True)
        assert isinstance(entered, Seat)  # noqa: S101 (what is kept was not asked for)
        return _Taken(entered)

    async def _replay(self, exchange: Exchange, place: Place, kept: Kept) -> _Taken | None:
        """Return what was kept, None if it is too old for the client, or of no use."""
        record = await self._keeper.load(place, kept.value)
        if record is None:
            return None
        most = exchange.directives.max_age_seconds
        if most is not None and _age_ms(record) > most * 1000:
            return None
        return _Taken(Recorded(record.pieces, is_paced=exchange.is_paced), record)

    async def _pieces(self, place: Place, value: bytes) -> Sequence[Piece] | None:
        record = await self._keeper.load(place, value)
        return None if record is None else record.pieces

    def _count(self, status: CacheStatus) -> None:
        match status:
            case "hit":
                self._counts.hits += 1
            case "shared":
                self._counts.shared += 1
            case _:
                self._counts.misses += 1


@dataclass(frozen=True, slots=True)
class _Taken:
    """The tape of one part, and the record that it comes from, if it was kept."""

    tape: Tape
    record: Record | None = None

    @property
    def status(self) -> CacheStatus:
        if self.record:
            return "hit"
        return "shared" if self.tape.is_free else "miss"


def _found(exchange: Exchange, taken: Sequence[_Taken], *, charge: Fraction) -> Found:
    statuses = {one.status for one in taken}
    status = next(one for one in ("miss", "shared", "hit") if one in statuses)
    etag = _etag(exchange, taken)
    ages_ms = [_age_ms(one.record) for one in taken if one.record]
    return Found(
        tapes=[one.tape for one in taken],
        status=status,
        charge=charge,
        age_seconds=max(ages_ms) // 1000 if status == "hit" else None,
        etag=etag,
        is_unchanged=status == "hit" and etag is not None and exchange.directives.matches(etag),
    )


def _etag(exchange: Exchange, taken: Sequence[_Taken]) -> str | None:
    """Return the weak entity tag of an answer: `id` and `created` differ each time.

    None where another request keeps the answer, as it alone knows under which name.
    """
    if any(one.status == "shared" for one in taken):
        return None
    names = [one.record.record_id if one.record else exchange.id for one in taken]
    form = {name: value for name, value in exchange.body.items() if name in _FORMS}
    return f'W/"{sha256(_encode([names, exchange.form.name, form])).hexdigest()[:32]}"'


def _is_large(recipe: Recipe) -> bool:
    """Tell whether a digest of it takes over a millisecond."""
    return len(recipe.media) + sum(len(call.body) for call in recipe.calls) > _LARGE_BYTES


def _age_ms(record: Record) -> int:
    """Return how old a record is. Another machine's clock may be ahead."""
    return max(0, int(time.time() * 1000) - record.made_at_ms)


async def _all_of(takes: Sequence[Callable[[], Awaitable[_Taken]]]) -> list[_Taken]:
    """Return what all return; if one fails, what the others have taken is closed."""
    if len(takes) == 1:
        return [await takes[0]()]
    tasks = [asyncio.ensure_future(take()) for take in takes]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await close_all([one.tape for one in outcomes if isinstance(one, _Taken)])
        raise


def _not_cached() -> BadRequest:
    return BadRequest(
        "No answer to this request is cached, and 'only-if-cached' forbids to ask for one.",
        status=504,
        code="not_cached",
        headers={"x-should-retry": "false"},
    )
