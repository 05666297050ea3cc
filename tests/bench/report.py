"""What the visits say: one table, then the budgets with what is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.gateways import SMG
from tests.bench.measure import Visit

_COLUMNS = (
    ("CPU/request µs", "request_us", 0),
    ("CPU/token µs", "token_us", 1),
    ("CPU/hit µs", "hit_us", 0),
    ("requests/s", "requests_per_second", 0),
    ("+first token p50 ms", "added_p50_ms", 2),
    ("p99 ms", "added_p99_ms", 2),
    ("health s", "health_seconds", 2),
    ("answer s", "answer_seconds", 2),
    ("RSS MiB", "rss_mib", 0),
    ("largest MiB", "largest_mib", 0),
)
_RATIOS = (("request ÷ SMG", "request_us"), ("token ÷ SMG", "token_us"))
_FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One gateway over all rounds: medians of the visits, percentiles of all their requests.

    What is added to the time to first token is counted from the median without a gateway.
    A percentile is None for a gateway so slow that there was nothing to take it of.
    """

    request_us: float
    token_us: float
    hit_us: float | None
    requests_per_second: float
    tokens_per_second: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    added_p50_ms: float | None
    added_p99_ms: float | None
    health_seconds: float
    answer_seconds: float
    rss_mib: float
    pss_mib: float
    largest_mib: float


def row(visits: Sequence[Visit], *, direct_first_token_seconds: Sequence[float]) -> Row:
    """Return the figures of one gateway."""

    def median(figure: str) -> float:
        return float(statistics.median(getattr(visit, figure) for visit in visits))

    direct = statistics.median(direct_first_token_seconds)
    firsts = [seconds - direct for visit in visits for seconds in visit.first_token_seconds]
    latencies = [seconds for visit in visits for seconds in visit.latency_seconds]
    return Row(
        request_us=median("request_us"),
        token_us=median("token_us"),
        hit_us=None if visits[0].hit_us is None else median("hit_us"),
        requests_per_second=median("requests_per_second"),
        tokens_per_second=median("tokens_per_second"),
        latency_p50_ms=_percentile_ms(latencies, 50),
        latency_p99_ms=_percentile_ms(latencies, 99),
        added_p50_ms=_percentile_ms(firsts, 50),
        added_p99_ms=_percentile_ms(firsts, 99),
        health_seconds=median("health_seconds"),
        answer_seconds=median("answer_seconds"),
        rss_mib=median("rss_mib"),
        pss_mib=median("pss_mib"),
        largest_mib=median("largest_mib"),
    )


def table(rows: Mapping[str, Row]) -> str:
    """Return the figures as aligned text, with ratios to SMG where it was measured."""
    smg = rows.get(SMG)
    heads = ["", *(head for head, _, _ in _COLUMNS), *(head for head, _ in _RATIOS if smg)]
    lines = [heads]
    for name, figures in rows.items():
        cells = [_number(getattr(figures, figure), digits) for _, figure, digits in _COLUMNS]
        ratios = [_number(_ratio(figures, smg, figure), 2) for _, figure in _RATIOS if smg]
        lines.append([name, *cells, *ratios])
    return _aligned(lines)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit, and the figure it holds for: None when that was not measured.

    `templates`: it also holds for a row that renders a chat template.
    """

    title: str
    limit: float
    figure: Callable[[Row, Row | None], float | None]
    templates: bool = True


# Growth with the number of keys, ledger rows and cached answers takes a filled store, not a
# load, so it has no line here; that memory stays flat is for `tests.bench.soak` to say.
BUDGETS = (
    Budget("CPU per chat request ÷ SMG", 2.5, lambda own, smg: _ratio(own, smg, "request_us")),
    Budget("… and in the end", 1.0, lambda own, smg: _ratio(own, smg, "request_us")),
    Budget("CPU per streamed token ÷ SMG", 1.2, lambda own, smg: _ratio(own, smg, "token_us")),
    Budget("added time to first token, p50 ms", 2.0, lambda own, _: own.added_p50_ms),
    Budget("added time to first token, p99 ms", 10.0, lambda own, _: own.added_p99_ms),
    Budget("CPU per cache hit ÷ a miss", 0.6, lambda own, _: _hit_ratio(own)),
    Budget("start to first answer, s", 1.5, lambda own, _: own.answer_seconds, templates=False),
    Budget("memory of a worker, MiB", 100.0, lambda own, _: own.largest_mib, templates=False),
)


def verdicts(own: Mapping[str, Row], *, smg: Row | None) -> str:
    """Return the budgets against Dragoman's own rows, as aligned text."""
    lines = [["", "budget", *own]]
    for budget in BUDGETS:
        cells = [_verdict(budget, name, figures, smg) for name, figures in own.items()]
        lines.append([budget.title, f"≤ {budget.limit:g}", *cells])
    return _aligned(lines)


def _verdict(budget: Budget, name: str, own: Row, smg: Row | None) -> str:
    if not budget.templates and name.endswith("template"):
        return "–"
    figure = budget.figure(own, smg)
    if figure is None:
        return "not measured"
    return f"{figure:.2f} {'met' if figure <= budget.limit else 'NOT MET'}"


def _ratio(own: Row, other: Row | None, figure: str) -> float | None:
    return float(getattr(own, figure) / getattr(other, figure)) if other else None


def _hit_ratio(own: Row) -> float | None:
    return own.hit_us / own.request_us if own.hit_us is not None else None


def _percentile_ms(seconds: Sequence[float], percent: int) -> float | None:
    if len(seconds) < _FEWEST:
        return None
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1e3


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return `lines` of cells as columns, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
