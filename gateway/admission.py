"""One admitted exchange, until it is settled."""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

import msgspec

from gateway.amounts import Amounts, Usage
from gateway.errors import GatewayError
from gateway.exchange import Answer, Body, Exchange, Frames, Route
from gateway.ledger import Record, Status, amounts_of, month_of
from gateway.quotas import Settlement

_GONE = "client_disconnected"

encode = msgspec.json.Encoder().encode
"""Records and settlements as JSON."""


class Settler(Protocol):
    """What settles."""

    def settle(self, settlement: Settlement, admission: Admission) -> Future[None]:
        """Begin to settle, and return what ends when that is done."""


class Admission:
    """One admitted exchange. Entered as a context, it is settled when the context is left in an
    error; `deliver` settles it otherwise.
    """

    def __init__(
        self,
        settler: Settler,
        exchange: Exchange,
        route: Route,
        *,
        estimate: Usage,
        reserved: Amounts,
    ) -> None:
        self.exchange = exchange
        self.reserved = reserved
        # Until the store tells its time.
        self.at_ms = int(time.time() * 1000)
        self.month = month_of(self.at_ms)
        self.is_under_way = False
        self._settler = settler
        self._route = route
        self._estimate = estimate
        self._settled: Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError):
            await self.settle("disconnected", _GONE)
        else:
            await self.settle("error", error.code if isinstance(error, GatewayError) else None)

    async def deliver(self, answer: Answer) -> Body | MeteredFrames:
        """Return the answer: a whole one settled, a stream to be settled with its last piece."""
        if isinstance(answer, Body):
            await self.settle("ok", self.exchange.finish)
            return answer
        self.exchange.first_token_ms = _since(self.exchange.began)
        return MeteredFrames(answer, self)

    async def settle(self, status: Status, finish: str | None) -> None:
        """Settle, once, on what the exchange has used. Survives the caller's cancellation."""
        if self._settled is None:
            usage, found = self.exchange.usage, self.exchange.found
            prompt = self._estimate.input_tokens
            if status == "disconnected" and prompt and not usage.input_tokens:
                # The upstream has read it, though nothing came back.
                usage.input_tokens, usage.estimated = prompt, True
            if found:
                usage = found.charged(usage)
            route = self.exchange.route or self._route
            self.exchange.record = record = record_of(
                self.exchange, route, usage, status=status, finish=finish
            )
            self._settled = self._begin(record.amounts, encode(record).decode())
        await asyncio.shield(self._settled)

    def undo(self) -> None:
        """Give back what the store may have reserved: the exchange was not admitted."""
        self._settled = self._begin(Amounts(), "")

    def _begin(self, used: Amounts, record: str) -> Future[None]:
        account = self.exchange.caller.account
        settlement = Settlement(
            request_id=self.exchange.id,
            shard=account.shard,
            keys=account.keys,
            caps=account.packed,
            at_ms=self.at_ms,
            month=self.month,
            reserved=self.reserved,
            used=used,
            record=record,
        )
        return self._settler.settle(settlement, self)


class MeteredFrames:
    """An answer in pieces that is settled before its last one leaves, or when it is closed."""

    def __init__(self, inner: Frames, admission: Admission) -> None:
        self.content_type = inner.content_type
        self._inner = inner
        self._admission = admission

    @property
    def is_over(self) -> bool:
        """Whether the piece at hand is the last. Then `settle` before it is sent."""
        return self._inner.is_over

    def frames(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        return self._inner.frames()

    async def settle(self) -> None:
        """Settle on what was received."""
        error, exchange = self._inner.error, self._admission.exchange
        if error:
            await self._admission.settle("error", error.code)
        elif self.is_over:
            await self._admission.settle("ok", exchange.finish)
        else:
            await self._admission.settle("disconnected", _GONE)

    async def aclose(self) -> None:
        """End what is still under way, and settle."""
        try:
            await self._inner.aclose()
        finally:
            await self.settle()


def reserved_for(exchange: Exchange, route: Route, estimate: Usage) -> Amounts:
    """Return what an exchange that uses `estimate` takes out of its budgets."""
    nano_usd = route.model.price.nano_usd(estimate)
    return amounts_of(estimate, task=exchange.task, nano_usd=nano_usd)


def record_of(
    exchange: Exchange, route: Route, usage: Usage, *, status: Status, finish: str | None
) -> Record:
    """Return the ledger's record of an exchange."""
    return Record(
        request_id=exchange.id,
        key_id=exchange.caller.id,
        team=exchange.caller.team,
        model=route.model.id,
        target=route.target.model,
        upstream=route.target.upstream.name,
        task=exchange.task,
        status=status,
        finish=finish,
        cached=exchange.found is not None and exchange.found.is_free,
        estimated=usage.estimated,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        images=usage.images,
        characters=usage.characters,
        audio_ms=usage.audio_ms,
        nano_usd=route.model.price.nano_usd(usage),
        total_ms=_since(exchange.began),
        upstream_ms=int(exchange.upstream_ms),
        first_token_ms=exchange.first_token_ms,
        retries=exchange.retries,
        client=exchange.client or None,
    )


def _since(began: float) -> int:
    return int((time.perf_counter() - began) * 1000)
