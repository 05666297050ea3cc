"""Metering: no exchange goes out unreserved, none ends unsettled, each leaves one ledger record."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Self

from gateway.accounts import Account
from gateway.admission import Admission, encode, record_of, reserved_for
from gateway.allowances import refusal
from gateway.amounts import Amounts, Usage
from gateway.errors import GatewayError
from gateway.exchange import Exchange, Route
from gateway.outage import LocalQuotas
from gateway.quotas import (
    HEARTBEAT_SECONDS,
    QuotaExceeded,
    Settlement,
    Snapshot,
    check_settled,
    extend,
    reserve,
    settle,
)
from gateway.spool import Spool
from gateway.store import Store, StoreError, StoreRefused

logger = logging.getLogger(__name__)

Policy = Literal["local", "open", "closed"]
AbandonPolicy = Literal["refund", "charge_input", "charge_all"]

_LAST_SETTLEMENTS_SECONDS = 5.0


class Meter:
    """Admits exchanges, and settles them whatever becomes of them."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        *,
        policy: Policy = "local",
        on_abandon: AbandonPolicy = "charge_input",
        workers: int = 1,
    ) -> None:
        self._store = store
        self._spool = spool
        self._policy = policy
        self._on_abandon = on_abandon
        self._local = LocalQuotas(workers=workers)
        self._is_store_away = False
        self._leases: dict[str, tuple[int, float]] = {}
        self._under_way = 0
        self._settling: set[Future[None]] = set()
        self._at_rest = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat(), name="lease heartbeat")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until all is settled. What was still under way has only just been cancelled."""
        self._heart.cancel()
        with suppress(asyncio.CancelledError):
            await self._heart
        if self._under_way or self._settling:
            self._at_rest.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_rest.wait(), _LAST_SETTLEMENTS_SECONDS)
        await self._spool.aclose()

    async def admit(self, exchange: Exchange, route: Route, estimate: Usage) -> Admission:
        """Reserve what is charged of `estimate`, which is what the whole answer may use.

        Raises GatewayError: 429 with what binds and until when, or 503 if the store is out of
        reach and `on_state_outage` does not allow going on without it.
        """
        account = exchange.caller.account
        charged = exchange.found.charged(estimate) if exchange.found else estimate
        amounts = reserved_for(exchange, route, charged)
        if_abandoned, record = self._if_abandoned(exchange, route, charged)
        admission = Admission(self, exchange, route, estimate=estimate, reserved=amounts)
        is_asked = self._store.is_available
        try:
            exchange.snapshot = snapshot = await reserve(
                self._store,
                account,
                exchange.id,
                amounts=amounts,
                charged_if_abandoned=if_abandoned,
                abandoned_record=record,
            )
        except QuotaExceeded as exceeded:
            self._hear(account, exceeded.snapshot)
            raise _refusal(exchange, exceeded) from None
        except StoreError as exc:
            logger.debug("admitting without the state store: %s", exc)
            self._is_store_away = True
            may_be_reserved = is_asked and not isinstance(exc, StoreRefused)
            self._admit_without_store(admission, may_be_reserved=may_be_reserved)
        except asyncio.CancelledError:
            admission.undo()
            raise
        else:
            admission.at_ms, admission.month = snapshot.now_ms, snapshot.month
            self._leases[exchange.id] = (account.shard, time.monotonic())
            self._hear(account, snapshot)
        self._local.begin(account)
        self._under_way += 1
        admission.is_under_way = True
        return admission

    def settle(self, settlement: Settlement, admission: Admission) -> Future[None]:
        """Begin to settle. What is returned ends when the store, or else the disk, has it."""
        self._leases.pop(settlement.request_id, None)
        if admission.is_under_way:
            self._under_way -= 1
            self._local.end(admission.exchange.caller.account)
        done: Future[None] = asyncio.get_running_loop().create_future()
        self._settling.add(done)
        done.add_done_callback(self._ended)
        if admission.exchange.is_degraded and self._is_store_away:
            # It has waited for the store once, in vain.
            self._keep(settlement, done)
        else:
            answer = settle(self._store, settlement)
            answer.add_done_callback(partial(self._answered, settlement, done))
        return done

    def _ended(self, done: Future[None]) -> None:
        self._settling.discard(done)
        if not (self._under_way or self._settling):
            self._at_rest.set()

    def _hear(self, account: Account, snapshot: Snapshot) -> None:
        self._is_store_away = False
        self._local.note(account, snapshot)

    def _answered(self, settlement: Settlement, done: Future[None], answer: Future[Any]) -> None:
        try:
            check_settled(answer.result())
        except StoreError as exc:
            logger.debug("settlement spooled: %s", exc)
            self._keep(settlement, done)
        else:
            done.set_result(None)

    def _keep(self, settlement: Settlement, done: Future[None]) -> None:
        kept = self._spool.put(encode(settlement))
        kept.add_done_callback(partial(self._kept, settlement, done))

    def _kept(self, settlement: Settlement, done: Future[None], kept: Future[None]) -> None:
        if kept.exception():
            # The log is what is left. A record holds no secret, no prompt and no answer.
            logger.critical("neither store nor disk takes a record: %s", settlement.record)
        done.set_result(None)

    def _admit_without_store(self, admission: Admission, *, may_be_reserved: bool) -> None:
        """Go on by `on_state_outage`. Raises GatewayError if it says not to."""
        exchange = admission.exchange
        exchange.is_degraded = True
        if self._policy == "open":
            return
        try:
            if self._policy == "closed":
                raise GatewayError(
                    "The gateway cannot check quotas at the moment.",
                    status=503,
                    code="quota_unavailable",
                    headers={"retry-after": "1"},
                )
            self._local.reserve(exchange.caller.account, admission.reserved)
        except (GatewayError, QuotaExceeded) as exc:
            if may_be_reserved:
                admission.undo()
            error = exc if isinstance(exc, GatewayError) else _refusal(exchange, exc)
            error.headers["x-dragoman-degraded"] = "quota"
            raise error from None

    def _if_abandoned(
        self, exchange: Exchange, route: Route, estimate: Usage
    ) -> tuple[Amounts, bytes]:
        """Return what is charged and recorded should this process die before it settles."""
        match self._on_abandon:
            case "refund":
                usage = Usage(estimated=True)
            case "charge_input":
                usage = Usage(input_tokens=estimate.input_tokens, estimated=True)
            case "charge_all":
                usage = estimate
        record = record_of(exchange, route, usage, status="abandoned", finish=None)
        return record.amounts, encode(record)

    async def _beat(self) -> None:
        """Prolong the leases of what is still under way."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / 4)
            due: dict[int, list[str]] = defaultdict(list)
            now = time.monotonic()
            for request_id, (shard, since) in self._leases.items():
                if now - since >= HEARTBEAT_SECONDS:
                    due[shard].append(request_id)
            for shard, request_ids in due.items():
                with suppress(StoreError):
                    await extend(self._store, shard, request_ids)
                    for request_id in request_ids:
                        if request_id in self._leases:
                            self._leases[request_id] = (shard, now)


class Unmetered:
    """Stands for a meter where there is no store: admits all, counts nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def admit(self, exchange: Exchange, route: Route, estimate: Usage) -> Admission:
        """Return an admission."""
        return Admission(self, exchange, route, estimate=estimate, reserved=Amounts())

    def settle(self, settlement: Settlement, admission: Admission) -> Future[None]:
        """Settle nothing."""
        done: Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def _refusal(exchange: Exchange, exceeded: QuotaExceeded) -> GatewayError:
    exchange.exceeded = exceeded.cap
    return refusal(exceeded)
