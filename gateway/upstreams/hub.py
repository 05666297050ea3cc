"""The models of the Hugging Face Hub, by their ids: looked up when they are first asked for.

What the Hub says is remembered, that it has no such model for a shorter time. A client's name
becomes part of a URL only if it can be an id, and neither the Hub nor its router is asked for a
model that the key may not use.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import httpx

from adapters.errors import Gated, Misconfigured, UpstreamError
from gateway.config import Settings
from gateway.errors import BadRequest, GatewayError, from_upstream
from gateway.keys import Caller
from gateway.upstreams.coldstart import Watches, alone
from gateway.upstreams.hub_api import HubApi
from gateway.upstreams.providers import Facts
from gateway.upstreams.routed import HubName, RoutedModels
from gateway.upstreams.target import Model, Upstream
from gateway.upstreams.trips import Trips
from gateway.upstreams.watcher import NOBODY, Watcher

_REFUSED_SECONDS = 60.0  # how long it is remembered that there is no such model, or no answer
_MOST_REMEMBERED = 4096

_Word = Facts | UpstreamError | None


@dataclass(slots=True)
class _Remembered:
    """The Hub's word on one id: None for no such model. `models`: what was built of it, by name."""

    word: _Word
    until: float
    models: dict[str, Model] = field(default_factory=dict)


class HubModels:
    """Finds models. Look-ups end with the `async with` block.

    Raises ConfigError when the credential is not there, or cannot be sent.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport,
        *,
        watches: Watches = alone,
        watcher: Watcher = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        hub = settings.hub
        self.api = HubApi(hub, transport)
        self._routed = RoutedModels(settings, transport, watches=watches, watcher=watcher)
        self._remember_seconds = hub.remember_seconds
        self._clock = clock
        self._trips = Trips(clock=clock)
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()
        await self.settled()

    @property
    def router(self) -> Upstream:
        """What all providers are behind, at the path of its own choice among them."""
        return self._routed.router

    @property
    def upstreams(self) -> Collection[Upstream]:
        """All that may be asked: the router and the providers behind it."""
        return self._routed.upstreams

    async def settled(self) -> None:
        """Wait for the look-ups that are under way."""
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)

    def known(self, text: str, caller: Caller) -> Model | None:
        """Return the model if it was asked for before, and `caller` may use it."""
        name = HubName.parse(text)
        if name is None or not _may_use(caller, name):
            return None
        remembered = self._remembered.get(name.id)
        return self._model(name, remembered) if remembered else None

    async def find(self, text: str, caller: Caller) -> Model | None:
        """Return the model, None if there is none for `caller`: it may not use it, or nobody can.

        Raises GatewayError for a model that is there but cannot be used, if the Hub cannot be
        asked, and if `caller` has had too many looked up.
        """
        name = HubName.parse(text)
        if name is None or not _may_use(caller, name):
            return None
        remembered = self._remembered.get(name.id)
        if remembered is None or self._clock() >= remembered.until:
            remembered = await self._renewed(name, caller, remembered)
        self._remembered.move_to_end(name.id)
        return self._answer(name, remembered)

    async def _renewed(
        self, name: HubName, caller: Caller, before: _Remembered | None
    ) -> _Remembered:
        """Have it looked up. Who asks for what is known goes on with that meanwhile."""
        known = before if before and isinstance(before.word, Facts) else None
        lookup = self._lookups.get(name.id)
        if lookup is None:
            if known is None and (seconds := self._trips.take(caller.id)):
                raise _too_many(seconds)
            lookup = self._begin(name.id)
        if known:
            return known
        # One of those who wait may be cancelled; the look-up goes on for the others.
        await asyncio.shield(lookup)
        return self._remembered[name.id]

    def _answer(self, name: HubName, remembered: _Remembered) -> Model | None:
        word = remembered.word
        if isinstance(word, UpstreamError):
            raise from_upstream(_again(word, remembered.until - self._clock()))
        if word is None:
            return None
        model = self._model(name, remembered)
        if model is None:
            raise _unserved(name)
        return model

    def _model(self, name: HubName, remembered: _Remembered) -> Model | None:
        """Return what the Hub's word makes of `name`, which is the same as long as the word is."""
        if not isinstance(remembered.word, Facts):
            return None
        if name.text not in remembered.models:
            model = self._routed.build(name, remembered.word)
            if model is None:
                return None
            remembered.models[name.text] = model
        return remembered.models[name.text]

    def _begin(self, id: str) -> asyncio.Task[None]:
        lookup = self._lookups[id] = asyncio.create_task(self._look_up(id))
        lookup.add_done_callback(partial(self._forget_lookup, id))
        return lookup

    def _forget_lookup(self, id: str, _: asyncio.Task[None]) -> None:
        del self._lookups[id]

    async def _look_up(self, id: str) -> None:
        try:
            word: _Word = await self.api.ask(id)
        except UpstreamError as exc:
            word = exc
        self._remember(id, word)

    def _remember(self, id: str, word: _Word) -> None:
        """Keep the word; what was built of the same one stays, with all that is known of it."""
        before = self._remembered.get(id)
        if before and isinstance(before.word, Facts) and _is_no_word(word):
            word = before.word  # better than nothing
            seconds = _REFUSED_SECONDS
        else:
            seconds = self._remember_seconds if isinstance(word, Facts) else _REFUSED_SECONDS
        models = before.models if before and before.word == word else {}
        self._remembered[id] = _Remembered(word, self._clock() + seconds, models)
        self._remembered.move_to_end(id)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)


def _may_use(caller: Caller, name: HubName) -> bool:
    return caller.may_use(name.id) or caller.may_use(name.text)


def _is_no_word(word: _Word) -> bool:
    """Tell whether the Hub has said nothing of the model itself."""
    return isinstance(word, UpstreamError) and not isinstance(word, Gated)


def _again(error: UpstreamError, seconds: float) -> UpstreamError:
    """Return `error` for one more client, which may ask again in `seconds`."""
    again = copy.copy(error)  # each who raises it adds a traceback
    if not isinstance(error, Misconfigured):
        again.retry_after_seconds = max(seconds, 1)
    return again


def _too_many(seconds: float) -> GatewayError:
    return GatewayError(
        "Too many models were asked for that are not known here yet: try again later.",
        status=429,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        param="model",
        headers={"retry-after": str(math.ceil(seconds))},
    )


def _unserved(name: HubName) -> BadRequest:
    who = repr(name.choice) if name.choice else "no provider that can be asked here"
    verb = "does not serve" if name.choice else "serves"
    return BadRequest(
        f"The model {name.id!r} is on the Hub, but {who} {verb} it.",
        status=404,
        code="model_not_found",
        param="model",
    )
