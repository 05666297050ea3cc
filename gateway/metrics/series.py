"""All metrics there are: one table, of which `gateway.metrics.registry` makes what counts.

The names and buckets of `gen_ai_*` are those of OpenTelemetry's semantic conventions for
generative AI (docs/gen-ai/gen-ai-metrics.md), spelled as Prometheus spells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Together = Literal["livesum", "livemax", "livemin", "livemostrecent"]
"""How the workers' gauges become one: prometheus_client's names."""

_REQUEST = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_ROUTE = ("task", "model", "upstream")
_DURATIONS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
    *(2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
_LOADING = (1, 2.5, 5, 10, 20, 40, 60, 120, 180, 300, 600)
_STORE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `together`: how a gauge's values in several workers become one.

    `is_asked`: it is not kept, but asked of the stores whenever it is told.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    together: Together = "livesum"
    is_asked: bool = False


METRICS: tuple[Metric, ...] = (
    Metric(
        "gen_ai_server_request_duration_seconds",
        "histogram",
        (*_REQUEST, "error_type"),
        "How long an admitted request took, from its head to the answer's last byte.",
        _DURATIONS,
    ),
    Metric(
        "gen_ai_server_time_to_first_token_seconds",
        "histogram",
        _REQUEST,
        "How long a stream's client waited until its first piece was there.",
        _FIRST_TOKEN,
    ),
    Metric(
        "gen_ai_server_time_per_output_token_seconds",
        "histogram",
        _REQUEST,
        "How long each token of a complete stream took after the first one, on average.",
        _PER_TOKEN,
    ),
    Metric(
        "gen_ai_client_operation_duration_seconds",
        "histogram",
        (*_REQUEST, "error_type"),
        "How much of an admitted request was spent waiting for upstreams; hits have none.",
        _DURATIONS,
    ),
    Metric(
        "gen_ai_client_token_usage",
        "histogram",
        (*_REQUEST, "gen_ai_token_type"),
        "Tokens of a request as it was charged; their sum is the ledger's.",
        _TOKENS,
    ),
    Metric(
        "dragoman_http_requests_total",
        "counter",
        ("route", "status"),
        "Answers by the template of their path; 0 is the status of those who left before any.",
    ),
    Metric(
        "dragoman_requests_total",
        "counter",
        (*_ROUTE, "status"),
        "Admitted requests by how they ended: each is a record of the ledger.",
    ),
    Metric(
        "dragoman_errors_total",
        "counter",
        ("code",),
        "Errors that clients were told, by `code`; those of streams that had begun too.",
    ),
    Metric(
        "dragoman_reservations_total",
        "counter",
        ("outcome",),
        "What became of requests at their limits; `degraded` ones passed without the state store.",
    ),
    Metric(
        "dragoman_refusals_total",
        "counter",
        ("limit",),
        "Requests refused by a limit of their key or team, by its name in the configuration.",
    ),
    Metric("dragoman_images_total", "counter", _ROUTE, "Images made, as the ledger has them."),
    Metric(
        "dragoman_characters_total",
        "counter",
        _ROUTE,
        "Characters spoken, as the ledger has them.",
    ),
    Metric(
        "dragoman_audio_seconds_total",
        "counter",
        _ROUTE,
        "Seconds of sound heard or made, as the ledger has them.",
    ),
    Metric(
        "dragoman_cost_nano_usd_total",
        "counter",
        _ROUTE,
        "What requests cost by their models' prices, in billionths of a US dollar.",
    ),
    Metric(
        "dragoman_cache_requests_total",
        "counter",
        ("task", "model", "outcome"),
        "Admitted requests by what the cache had: the answer, nothing, or the same request under "
        "way to share with; those that `bypass` it did not ask.",
    ),
    Metric(
        "dragoman_cache_errors_total",
        "counter",
        ("error",),
        "What the cache could not do: ask its store, use its files, read what was kept.",
    ),
    Metric(
        "dragoman_cache_used_bytes",
        "gauge",
        (),
        "Memory that the cache store uses, for all gateways that share it.",
        is_asked=True,
    ),
    Metric(
        "dragoman_cache_max_bytes",
        "gauge",
        (),
        "Memory that the cache store may use, 0 for no limit.",
        is_asked=True,
    ),
    Metric(
        "dragoman_cache_evicted_total",
        "counter",
        (),
        "Answers that the cache store evicted for lack of room since it began.",
        is_asked=True,
    ),
    Metric(
        "dragoman_retries_total",
        "counter",
        ("model",),
        "Second and later attempts of requests, at another target or the same.",
    ),
    Metric(
        "dragoman_upstream_calls_total",
        "counter",
        ("upstream", "model", "outcome"),
        "Calls by what came of them; `crowded` ones were kept back by the gateway itself, and "
        "nobody waited for the end of those that were `left`.",
    ),
    Metric(
        "dragoman_upstream_available",
        "gauge",
        ("upstream", "model"),
        "Whether a request for the model would go there now; 0 if any worker thinks not.",
        together="livemin",
    ),
    Metric("dragoman_upstream_in_flight", "gauge", ("upstream",), "Calls under way."),
    Metric(
        "dragoman_queue_length",
        "gauge",
        ("upstream",),
        "Calls that wait, as the upstream has as many as it may be given.",
    ),
    Metric(
        "dragoman_model_loading_seconds",
        "histogram",
        ("upstream", "model"),
        "How long a call waited for its model to be loaded, in vain or not.",
        _LOADING,
    ),
    Metric(
        "dragoman_requests_in_flight",
        "gauge",
        ("task",),
        "Requests that are not answered in full; those without a task ask no model.",
    ),
    Metric(
        "dragoman_oldest_request_seconds",
        "gauge",
        (),
        "The age of the oldest request that is not answered in full.",
        together="livemax",
    ),
    Metric(
        "dragoman_leases_open",
        "gauge",
        (),
        "Admitted requests that are not settled, of all gateways that share the state store.",
        is_asked=True,
    ),
    Metric(
        "dragoman_ledger_lag_records",
        "gauge",
        (),
        "Records of the ledger that wait in the state store for the book.",
        is_asked=True,
    ),
    Metric(
        "dragoman_ledger_lag_seconds",
        "gauge",
        (),
        "For how long the oldest record has been waiting for the book.",
        is_asked=True,
    ),
    Metric(
        "dragoman_spool_bytes",
        "gauge",
        (),
        "Settlements on disk that wait for the state store to come back.",
        is_asked=True,
    ),
    Metric(
        "dragoman_store_duration_seconds",
        "histogram",
        ("store",),
        "How long it took from a write to a store until all its replies were there.",
        _STORE,
    ),
    Metric(
        "dragoman_store_available",
        "gauge",
        ("store",),
        "Whether a store is asked at all: it rests after failures; 0 if any worker lets it.",
        together="livemin",
    ),
    Metric(
        "dragoman_event_loop_lag_seconds",
        "gauge",
        ("worker",),
        "By how much a timer came too late, at worst within the last 15 seconds.",
        together="livemostrecent",
    ),
    Metric(
        "dragoman_resident_memory_bytes",
        "gauge",
        ("worker",),
        "Memory that a worker occupies.",
        together="livemostrecent",
    ),
    Metric(
        "dragoman_open_files",
        "gauge",
        ("worker",),
        "Files and sockets that a worker has open.",
        together="livemostrecent",
    ),
    Metric(
        "dragoman_tasks",
        "gauge",
        ("worker",),
        "Tasks of a worker's event loop that have not ended.",
        together="livemostrecent",
    ),
    Metric("dragoman_workers", "gauge", (), "Workers that live, retiring ones included."),
    Metric(
        "dragoman_log_lines_dropped_total",
        "counter",
        (),
        "Lines of the log that were given up, as nobody read them fast enough.",
    ),
    Metric(
        "dragoman_build_info",
        "gauge",
        ("version",),
        "Always 1; the label tells which version runs.",
        together="livemax",
    ),
    Metric(
        "dragoman_key_requests_total",
        "counter",
        ("key",),
        "Admitted requests by the public id of their key; only with `[metrics] per_key`.",
    ),
    Metric(
        "dragoman_key_cost_nano_usd_total",
        "counter",
        ("key",),
        "What a key's requests cost, in billionths of a US dollar; only with `[metrics] per_key`.",
    ),
    Metric(
        "dragoman_key_tokens_total",
        "counter",
        ("key", "type"),
        "Tokens of a key's requests as they were charged; only with `[metrics] per_key`.",
    ),
)

BY_NAME: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in METRICS})
