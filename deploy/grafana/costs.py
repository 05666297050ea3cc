"""What does it cost, and is the cache worth it?"""

from __future__ import annotations

from collections.abc import Callable

from deploy.grafana.panels import Panel, Query, Row
from deploy.grafana.promql import ALL, MODEL, UPSTREAM, increase, rate

_NANO_USD, _OUTCOMES = "dragoman_cost_nano_usd_total", "dragoman_cache_requests_total"
_KEPT, _PAID = f'{MODEL},outcome=~"hit|shared"', f'{MODEL},outcome=~"miss|bypass"'
_LOOKED_UP = f'{MODEL},outcome!="bypass"'


def _saved(over: Callable[..., str]) -> str:
    """Return nano-USD by model: what was kept, at the price of what had to be paid."""
    kept, paid = (over(_OUTCOMES, "model", where=where) for where in (_KEPT, _PAID))
    return f"{kept} * ({over(_NANO_USD, 'model', where=MODEL)} / ({paid} > 0))"


def _outcomes(where: str) -> str:
    return rate(_OUTCOMES, "model", where=where)


COST = Row(
    "What does it cost?",
    (
        Panel(
            title="Cost in this time",
            description="By the prices in the configuration, of all that the dashboard shows.",
            queries=[Query(f"{increase(_NANO_USD, where=UPSTREAM)} / 1e9")],
            unit="currencyUSD",
            kind="stat",
            width=6,
        ),
        Panel(
            title="A month at this rate",
            description="30 days like the time that is shown.",
            queries=[
                Query(f"{increase(_NANO_USD, where=UPSTREAM)} / 1e9 / $__range_s * 30 * 86400")
            ],
            unit="currencyUSD",
            kind="stat",
            width=6,
        ),
        Panel(
            title="Saved by the cache in this time",
            description="An estimate: hits and shared answers at what the model's other requests "
            "cost on average. Right while `cache.charge` is `none`.",
            queries=[Query(f"sum({_saved(increase)}) / 1e9")],
            unit="currencyUSD",
            kind="stat",
            width=12,
        ),
        Panel(
            title="Cost by model",
            description="USD an hour.",
            queries=[
                Query(f"{rate(_NANO_USD, 'model', where=UPSTREAM)} * 3600 / 1e9", "{{model}}")
            ],
            unit="currencyUSD",
            is_stacked=True,
        ),
        Panel(
            title="Cost by upstream",
            description="USD an hour.",
            queries=[
                Query(
                    f"{rate(_NANO_USD, 'upstream', where=UPSTREAM)} * 3600 / 1e9",
                    "{{upstream}}",
                )
            ],
            unit="currencyUSD",
            is_stacked=True,
        ),
        Panel(
            title="Cost by key",
            description="USD an hour. Only with `[metrics] per_key = true`.",
            queries=[
                Query(
                    f"topk(10, {rate('dragoman_key_cost_nano_usd_total', 'key')} * 3600 / 1e9)",
                    "{{key}}",
                )
            ],
            unit="currencyUSD",
            is_stacked=True,
        ),
    ),
)

CACHE = Row(
    "Is the cache worth it?",
    (
        Panel(
            title="Served without an upstream",
            description="Hits and shared answers among the requests for which the cache was asked.",
            queries=[Query(f"{_outcomes(_KEPT)} / {_outcomes(_LOOKED_UP)}", "{{model}}")],
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Requests by outcome",
            description="`shared`: joined a request under way. `bypass`: cannot be kept, or the "
            "client did not want it.",
            queries=[Query(rate(_OUTCOMES, "outcome", where=MODEL), "{{outcome}}")],
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Saved",
            description="USD an hour, as estimated above.",
            queries=[Query(f"{_saved(rate)} * 3600 / 1e9", "{{model}}")],
            unit="currencyUSD",
            is_stacked=True,
        ),
        Panel(
            title="Memory of the cache store",
            description="Of all gateways that share it.",
            queries=[
                Query(f"max(dragoman_cache_used_bytes{{{ALL}}})", "used"),
                Query(f"max(dragoman_cache_max_bytes{{{ALL}}}) > 0", "may be used"),
            ],
            unit="bytes",
        ),
        Panel(
            title="Evicted",
            description="Answers a second that were given up for lack of room.",
            queries=[
                Query(
                    f"max(rate(dragoman_cache_evicted_total{{{ALL}}}[$__rate_interval]))", "evicted"
                )
            ],
            unit="ops",
        ),
        Panel(
            title="Cache errors",
            description="What could not be read or kept; such requests went to an upstream.",
            queries=[Query(rate("dragoman_cache_errors_total", "error"), "{{error}}")],
            unit="ops",
        ),
    ),
)
