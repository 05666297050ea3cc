"""`GET /v1/usage`: what the holder of a key may still use, and when it is whole again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from adapters.base import Json
from gateway.allowances import NAMES, Allowance, allowances, in_units
from gateway.errors import GatewayError
from gateway.keys import Caller
from gateway.quotas import Snapshot, Standing, look
from gateway.store import Store, StoreError


def usage_route(store: Store | None) -> HTTPRouteHandler:
    """Return the route. Without a store nothing is counted, and it answers 503."""

    @get("/usage")
    async def show_usage(request: Request[Caller, Any, Any]) -> Json:
        """Show the key's and its team's limits, what is used, and when each resets."""
        caller = request.user
        if store is None:
            raise _unavailable()
        try:
            snapshot, under_way = await look(store, caller.account)
        except StoreError as exc:
            raise _unavailable() from exc
        limits = [_limit(one, snapshot) for one in allowances(caller.account, snapshot)]
        for scope, caps, count in zip(
            caller.account.scopes, caller.account.caps, under_way, strict=True
        ):
            if caps.concurrency >= 0:
                left = max(0, caps.concurrency - count)
                one = Allowance(scope, "concurrency", caps.concurrency, count, left, 0)
                limits.append(_limit(one, snapshot))
        return {
            "object": "usage",
            "key": {"id": caller.id, "name": caller.name, "team": caller.team},
            "used": {
                scope.partition(":")[0]: _used(standing)
                for scope, standing in zip(caller.account.scopes, snapshot.standings, strict=True)
            },
            "limits": limits,
        }

    return show_usage


def _unavailable() -> GatewayError:
    return GatewayError(
        "The gateway cannot read usage at the moment.",
        status=503,
        code="quota_unavailable",
        headers={"retry-after": "1"},
    )


def _used(standing: Standing) -> Json:
    """Return what a scope used today and, in money, this month (UTC); what is reserved counts."""
    return {
        "requests_today": standing.requests,
        "tokens_today": standing.tokens,
        "images_today": standing.images,
        "speech_characters_today": standing.characters,
        "audio_seconds_today": in_units(standing.audio_ms, "audio_ms"),
        "usd_this_month": in_units(standing.nano_usd, "nano_usd"),
    }


def _limit(one: Allowance, snapshot: Snapshot) -> Json:
    name, _, _ = NAMES[one.cap]
    resets_at = datetime.fromtimestamp(snapshot.now_ms / 1000, UTC) + timedelta(
        seconds=one.reset_seconds
    )
    return {
        "scope": one.scope.partition(":")[0],
        "name": name,
        "limit": in_units(one.limit, one.cap),
        "used": in_units(one.used, one.cap),
        "remaining": in_units(one.remaining, one.cap),
        "resets_at": resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resets_in_seconds": round(one.reset_seconds, 3),
    }
