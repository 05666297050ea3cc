"""What each request adds to the metrics once it has ended.

Amounts come from the ledger's record alone, so that sums agree with the ledger. What a client can
invent (models, paths, codes) is no label: there are as many series as the catalogue, the routes
and the gateway's own codes make.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from gateway.allowances import NAMES
from gateway.metrics.codes import bounded
from gateway.metrics.registry import Add, Series, exact
from gateway.native.address import FACE
from gateway.operations import operation_of

if TYPE_CHECKING:
    from litestar.types import HTTPScope

    from gateway.access import Access
    from gateway.exchange import Exchange
    from gateway.ledger import Record
    from gateway.metrics.keys import Keys
    from gateway.upstreams.target import Model

HUB = "_hub"
NATIVE = "/models/{model}"
UNKNOWN = "unknown"


class Requests:
    """The observer that counts. `models`: the ids that are labels; all others are the Hub's."""

    def __init__(self, series: Series, models: Collection[str], keys: Keys | None = None) -> None:
        self._series = series
        self._models = frozenset(models)
        self._keys = keys
        self._under_way: dict[Access, None] = {}
        self._ways: dict[tuple[str, str, str], _Way] = {}
        self._answers: dict[tuple[str, int], Add] = {}
        self._counters: dict[tuple[str, ...], Add] = {}

    @property
    def under_way(self) -> Iterator[Access]:
        """Yield what has begun and not ended, the oldest first."""
        return iter(self._under_way)

    def expect(self, models: Iterable[Model]) -> None:
        """Begin at zero what a sum over time is made of.

        A counter that a scrape first finds at 5 has not grown by 5 for Prometheus: of a model that
        is seldom asked much of the cost would be missing.
        """
        for model in models:
            for upstream in {target.upstream.name for target in model.targets}:
                self._way_of(str(model.task), model.id, upstream).begin()

    def began(self, access: Access, scope: HTTPScope) -> None:
        """Hear of a request."""
        self._under_way[access] = None

    def ended(self, access: Access, scope: HTTPScope) -> None:
        """Count a request."""
        self._under_way.pop(access, None)
        self._count_answer(access.route or _mount(scope), access.status)
        exchange = access.exchange
        record = exchange.record if exchange else None
        if access.status >= 400 or access.code:
            self._count("dragoman_errors_total", bounded(access.code))
        elif record and record.status == "error":  # told within a stream that had begun
            self._count("dragoman_errors_total", bounded(record.finish))
        if exchange:
            self._count_exchange(exchange, record, access.seconds)

    def _count_answer(self, route: str, status: int) -> None:
        add = self._answers.get((route, status))
        if add is None:
            name = "dragoman_http_requests_total"
            add = self._answers[route, status] = self._series.adder(name, route, str(status))
        add(1)

    def _count_exchange(self, exchange: Exchange, record: Record | None, seconds: float) -> None:
        way = self._way(exchange, record)
        if exchange.retries:
            self._series.adder("dragoman_retries_total", way.model)(exchange.retries)
        if record is None:
            self._count_refusal(exchange)
            return
        if found := exchange.found:
            way.cache[found.status](1)
        outcome = "degraded" if exchange.is_degraded else "admitted"
        self._count("dragoman_reservations_total", outcome)
        way.add(record, exchange, seconds)
        if self._keys:
            self._keys.add(record)

    def _count_refusal(self, exchange: Exchange) -> None:
        """Count what its limits, or the lack of a store to ask, did not let pass."""
        if exchange.exceeded:
            self._count("dragoman_refusals_total", NAMES[exchange.exceeded][0])
        if exchange.exceeded or exchange.is_degraded:
            self._count("dragoman_reservations_total", "refused")

    def _count(self, *labelled: str) -> None:
        add = self._counters.get(labelled)
        if add is None:
            add = self._counters[labelled] = self._series.adder(*labelled)
        add(1)

    def _way(self, exchange: Exchange, record: Record | None) -> _Way:
        """Return what counts for all exchanges that went the same way."""
        if record:
            task, model, upstream = record.task, record.model, record.upstream
        elif route := exchange.route:
            task, model = exchange.task, route.model.id
            upstream = route.target.upstream.name
        else:
            task, model, upstream = exchange.task, "", ""
        if model not in self._models and model:
            model = HUB
        return self._way_of(task, model, upstream)

    def _way_of(self, *key: *tuple[str, str, str]) -> _Way:
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = _Way(self._series, *key)
        return way


def _mount(scope: HTTPScope) -> str:
    """Return what stands for a path without a template: all of the native API is one mount."""
    return NATIVE if FACE.match(scope["raw_path"]) else UNKNOWN


class _End(NamedTuple):
    """What counts for all that ended the same way."""

    requests: Add
    duration: Add
    upstream: Add


class _Way:
    """The series of one task, model and upstream, each made when it is first needed."""

    def __init__(self, series: Series, task: str, model: str, upstream: str) -> None:
        self.model = model
        self._series = series
        self._route = str(task), model, upstream
        self._request = operation_of(task), upstream, model
        self._ends: dict[tuple[str, str | None], _End] = {}

    def begin(self) -> None:
        """Tell what it costs, and what the cache had, as zero until there is more."""
        self.nano_usd(0)
        for add in self.cache.values():
            add(0)

    def add(self, record: Record, exchange: Exchange, seconds: float) -> None:
        """Count an admitted request."""
        is_ok = record.status == "ok"
        end = self._end(record.status, None if is_ok else record.finish)
        upstream_seconds = exchange.upstream_ms / 1000
        end.requests(1)
        end.duration(seconds)
        if upstream_seconds:
            end.upstream(upstream_seconds)
        if record.input_tokens:
            self.input_tokens(record.input_tokens)
        if record.output_tokens:
            self.output_tokens(record.output_tokens)
        if record.nano_usd:
            self.nano_usd(record.nano_usd)
        if record.first_token_ms is not None and exchange.is_stream:
            self._add_pace(record, seconds, is_whole=is_ok)
        if record.images:
            self.images(record.images)
        if record.characters:
            self.characters(record.characters)
        if record.audio_ms:
            self.audio_seconds(exact(record.audio_ms / 1000))

    def _add_pace(self, record: Record, seconds: float, *, is_whole: bool) -> None:
        first_seconds = (record.first_token_ms or 0) / 1000
        self.first_token(first_seconds)
        if is_whole and record.output_tokens > 1:
            self.per_token(max(seconds - first_seconds, 0) / (record.output_tokens - 1))

    def _end(self, status: str, finish: str | None) -> _End:
        key = status, finish and bounded(finish)
        end = self._ends.get(key)
        if end is None:
            error = "" if status == "ok" else bounded(finish)
            series = self._series
            end = self._ends[key] = _End(
                series.adder("dragoman_requests_total", *self._route, status),
                series.observer("gen_ai_server_request_duration_seconds", *self._request, error),
                series.observer("gen_ai_client_operation_duration_seconds", *self._request, error),
            )
        return end

    @cached_property
    def cache(self) -> dict[str, Add]:
        """By outcome."""
        task, model, _ = self._route
        return {
            outcome: self._series.adder("dragoman_cache_requests_total", task, model, outcome)
            for outcome in ("hit", "miss", "shared", "bypass")
        }

    @cached_property
    def input_tokens(self) -> Add:
        """What was read."""
        return self._series.observer("gen_ai_client_token_usage", *self._request, "input")

    @cached_property
    def output_tokens(self) -> Add:
        """What was made."""
        return self._series.observer("gen_ai_client_token_usage", *self._request, "output")

    @cached_property
    def first_token(self) -> Add:
        """Streams alone."""
        return self._series.observer("gen_ai_server_time_to_first_token_seconds", *self._request)

    @cached_property
    def per_token(self) -> Add:
        """Streams alone."""
        return self._series.observer("gen_ai_server_time_per_output_token_seconds", *self._request)

    @cached_property
    def nano_usd(self) -> Add:
        """What it cost."""
        return self._series.adder("dragoman_cost_nano_usd_total", *self._route)

    @cached_property
    def images(self) -> Add:
        """How many."""
        return self._series.adder("dragoman_images_total", *self._route)

    @cached_property
    def characters(self) -> Add:
        """How many."""
        return self._series.adder("dragoman_characters_total", *self._route)

    @cached_property
    def audio_seconds(self) -> Add:
        """How many."""
        return self._series.adder("dragoman_audio_seconds_total", *self._route)
