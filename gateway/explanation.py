"""What a request would become: where it would go, what would be sent, kept and reserved.

Nothing is sent, reserved or looked up. All of it comes from what the relay itself uses.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from adapters.base import Call, Json, Task
from adapters.errors import UpstreamError
from gateway.admission import reserved_for
from gateway.allowances import NAMES, charges, in_units
from gateway.cache.policy import Policy
from gateway.config import Settings
from gateway.errors import GatewayError, from_upstream
from gateway.exchange import Body, Exchange, Job, Route, TaskAnswer
from gateway.keys import Caller
from gateway.request_kinds import RESPONSE, kind_of
from gateway.requests import check_body
from gateway.responses.form import ResponsesForm
from gateway.responses.refusals import in_own_words
from gateway.responses.request import read_responses
from gateway.tapes import Part
from gateway.text_form import OPENAI_FORM, TextForm
from gateway.upstreams.attempts import Attempts
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.errand import Errand
from gateway.upstreams.opening import headers_of
from gateway.upstreams.target import Model, Target

# In JSON: the whole of a string, or what follows the mark of a data URL. Numbers are not quoted.
_BASE64 = re.compile(rb'(?:(?<=")|(?<=;base64,))([A-Za-z0-9+/]{200,})(={0,2})(?=["\\)])')
_SHOWN = 32  # characters of it
_SECRET = "authorization"  # noqa: S105 (the name of a header)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: see `Exchange`."""

    task: Task
    body: Json
    form: TextForm = OPENAI_FORM
    unheard: tuple[str, ...] = ()


def read_request(sent: Any, caller: Caller, catalog: Catalog, *, route: str | None) -> Asked:
    """Return what a request for `route`, by default of the kind it looks like, asks for.

    Raises BadRequest.
    """

    def task_of(name: str) -> str | None:
        model = catalog.find(name, caller)
        return model.task if model else None

    kind = kind_of(sent, route=route, task_of=task_of)
    if kind is RESPONSE:
        asked = read_responses(sent)
        return Asked(kind.task, asked.body, asked.form, asked.unheard)
    return Asked(kind.task, check_body(kind.schema, sent))


class Explainer:
    """Explains exchanges, in the place of the relay that would answer them."""

    def __init__(self, catalog: Catalog, tasks: TaskAnswer, settings: Settings) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self._policy = Policy(settings.cache)
        self._attempts = settings.retries.attempts

    async def __call__(self, exchange: Exchange) -> Body:
        """Return the explanation, one JSON object. Raises GatewayError as the relay would.

        Long base64 is cut short there, and its size told.
        """
        try:
            return await self._explained(exchange)
        except GatewayError as exc:
            if isinstance(exchange.form, ResponsesForm):
                in_own_words(exc)
            raise

    async def _explained(self, exchange: Exchange) -> Body:
        model = await self._catalog.resolve(exchange.model, exchange.caller, task=exchange.task)
        attempts = Attempts(self._catalog, exchange, model, most=self._attempts)
        routes = [*attempts.foreseen()]
        job = await self._tasks.prepare(exchange, routes[0])
        try:
            told = await asyncio.to_thread(self._explain, exchange, routes, job)
        except UpstreamError as exc:
            raise from_upstream(exc) from exc
        return Body(told)

    def _explain(self, exchange: Exchange, routes: Sequence[Route], job: Job) -> bytes:
        route = routes[0]
        told = {
            "object": "explanation",
            "task": exchange.task,
            "model": route.model.id,
            "targets": [*self._targets(exchange, routes)],
            "requests": [_request(part.errand, call) for part in job.parts for call in part.calls],
            "prompts": _prompts(exchange, job),
            "ignored": [*exchange.unheard, *exchange.ignored],
            "cache": self._cache(exchange, route, job),
            "reservation": _reservation(exchange, route, job),
        }
        return _BASE64.sub(_shortened, msgspec.json.encode(told))

    def _targets(self, exchange: Exchange, routes: Sequence[Route]) -> Iterator[Json]:
        """Yield where it would go, in order, should each fail; then what is passed over."""
        first = routes[0]
        for place, route in enumerate(routes, 1):
            why = _why_later(exchange, route, first)
            yield _target(route.model, route.target, place=place, why=why)
        tried = {id(route.target) for route in routes}
        for model in self._models(exchange, first.model):
            for target in model.targets:
                if id(target) not in tried:
                    why = _why_not(exchange, target)
                    yield _target(model, target, place=None, why=why)

    def _models(self, exchange: Exchange, model: Model) -> Iterator[Model]:
        """Yield the model and those that may stand in for it."""
        yield model
        for name in model.fallbacks:
            if other := self._catalog.find(name, exchange.caller):
                yield other

    def _cache(self, exchange: Exchange, route: Route, job: Job) -> Json:
        use = self._policy.use(exchange, route, job)
        return {
            "is_read": use.is_read,
            "is_written": use.is_written,
            "obstacle": use.obstacle,
            "ttl_seconds": route.model.cache_ttl_seconds,
            "answers": [self._kept(exchange, route, part) for part in job.parts],
        }

    def _kept(self, exchange: Exchange, route: Route, part: Part) -> Json:
        """Return under which key a part is kept, and what the key is made of, in its order."""
        recipe = part.recipe()
        place = self._policy.place(exchange, route, recipe)
        made_of = self._policy.ingredients(exchange, route, recipe)
        return {"key": place.digest, "place": place.storage_key, "made_of": made_of._asdict()}


def _why_later(exchange: Exchange, route: Route, first: Route) -> str | None:
    """Return why a target is not the first to be asked, or what is wrong with one that is."""
    target, other = route.target, first.target
    if hindrance := target.hindrance(exchange.task):
        return hindrance  # nothing better is there
    if route is first:
        return None
    if route.model is not first.model:
        return "fallback"
    if not target.cold_start.may_be_asked:
        return "loading"
    return "priority" if target.priority != other.priority else "weight"


def _why_not(exchange: Exchange, target: Target) -> str:
    """Return why a target is not asked at all."""
    if not exchange.can_go_to(target.upstream):
        return "task"
    return target.hindrance(exchange.task) or "attempts"


def _target(model: Model, target: Target, *, place: int | None, why: str | None) -> Json:
    upstream = target.upstream
    return {
        "place": place,
        "why": why,
        "model": model.id,
        "upstream": upstream.name,
        "dialect": upstream.dialect_name,
        "name": target.model,
        "state": target.state,
        "priority": target.priority,
        "weight": target.weight,
        "outstanding": target.outstanding,
    }


def _request(errand: Errand, call: Call) -> Json:
    """Return what is sent for a call, without the credential. Raises ModelMissing."""
    request = errand.target.upstream.server.request(call, headers=headers_of(errand))
    headers = {name: value for name, value in request.headers.items() if name != _SECRET}
    return {
        "method": request.method,
        "url": str(request.url),
        "headers": headers,
        "body": _body(call.body, headers["content-type"]),
    }


def _body(body: bytes, content_type: str) -> msgspec.Raw | str:
    """Return JSON as it is sent; of all else, how much there is of it."""
    if content_type.startswith("application/json"):
        return msgspec.Raw(body or b"null")
    return f"{len(body)} bytes of {content_type}"


def _prompts(exchange: Exchange, job: Job) -> list[str]:
    """Return the rendered prompts of a text. The parts of one errand share them."""
    if exchange.task not in (Task.CHAT, Task.COMPLETION):
        return []
    errands = {id(part.errand): part.errand for part in job.parts}
    return [prompt for errand in errands.values() for prompt in errand.request.prompts]


def _reservation(exchange: Exchange, route: Route, job: Job) -> Json:
    """Return what is reserved for an answer that has to be made, and the limits that count it."""
    amounts = reserved_for(exchange, route, job.estimate)
    return {
        "estimate": asdict(job.estimate),
        "amounts": {"requests": 1, **amounts._asdict()},
        "limits": [
            {
                "scope": scope.partition(":")[0],
                "name": NAMES[cap][0],
                "limit": in_units(limit, cap),
                "amount": in_units(amount, cap),
            }
            for scope, cap, limit, amount in charges(exchange.caller.account, amounts)
        ],
    }


def _shortened(found: re.Match[bytes]) -> bytes:
    data, padding = found.groups()
    size_bytes = (len(data) + len(padding)) * 3 // 4 - len(padding)
    return data[:_SHOWN] + f"… ({size_bytes} bytes)".encode()
