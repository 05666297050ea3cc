"""What is slow, and is it well inside?"""

from __future__ import annotations

from deploy.grafana.panels import Panel, Query, Row
from deploy.grafana.promql import ALL, GEN_AI, UPSTREAM, quantiles, rate, slowest

_BEGINNING = "gen_ai_server_time_to_first_token_seconds"
_SERVER = "gen_ai_server_request_duration_seconds"
_CLIENT = "gen_ai_client_operation_duration_seconds"

SLOW = Row(
    "What is slow?",
    (
        Panel(
            title="Whole requests",
            description="First byte in to last byte out, streams with all their tokens.",
            queries=quantiles(_SERVER, where=GEN_AI),
            unit="s",
        ),
        Panel(
            title="Time to first token",
            description="Streams: until the client had the first piece.",
            queries=quantiles(_BEGINNING, where=GEN_AI),
            unit="s",
        ),
        Panel(
            title="Time per token",
            description="Streams, after the first token.",
            queries=quantiles("gen_ai_server_time_per_output_token_seconds", where=GEN_AI),
            unit="s",
        ),
        Panel(
            title="Whole requests by model, p95",
            description="The slowest twentieth of each model's requests takes longer.",
            queries=[
                Query(
                    slowest(0.95, _SERVER, "gen_ai_request_model", where=GEN_AI),
                    "{{gen_ai_request_model}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Waiting for upstreams, p95",
            description="Until they began to answer, by provider; not what a stream brings later.",
            queries=[
                Query(
                    slowest(0.95, _CLIENT, "gen_ai_provider_name", where=GEN_AI),
                    "{{gen_ai_provider_name}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Time to first token by model, p95",
            description="The slowest twentieth of each model's streams begins later.",
            queries=[
                Query(
                    slowest(0.95, _BEGINNING, "gen_ai_request_model", where=GEN_AI),
                    "{{gen_ai_request_model}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Waits for models to load, p95",
            description="Cold models: how long calls were held.",
            queries=[
                Query(
                    slowest(
                        0.95, "dragoman_model_loading_seconds", "upstream, model", where=UPSTREAM
                    ),
                    "{{upstream}} · {{model}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Upstream calls under way",
            description="Up to `max_concurrency` where there is one.",
            queries=[
                Query(f"sum by (upstream) (dragoman_upstream_in_flight{{{ALL}}})", "{{upstream}}")
            ],
        ),
        Panel(
            title="Queue",
            description="Calls that wait because their upstream has `max_concurrency`.",
            queries=[Query(f"sum by (upstream) (dragoman_queue_length{{{ALL}}})", "{{upstream}}")],
        ),
    ),
)

INSIDE = Row(
    "Is it well inside?",
    (
        Panel(
            title="The ledger's lag",
            description="Age of the oldest record that is not yet in the book.",
            queries=[Query(f"max(dragoman_ledger_lag_seconds{{{ALL}}})", "oldest record")],
            unit="s",
        ),
        Panel(
            title="Records and leases",
            description="Records that wait for the book; admitted requests that are not settled.",
            queries=[
                Query(f"max(dragoman_ledger_lag_records{{{ALL}}})", "records waiting"),
                Query(f"max(dragoman_leases_open{{{ALL}}})", "leases open"),
            ],
        ),
        Panel(
            title="Spool",
            description="Settlements on a gateway's disk, which wait for the state store.",
            queries=[Query(f"sum by (instance) (dragoman_spool_bytes{{{ALL}}})", "{{instance}}")],
            unit="bytes",
        ),
        Panel(
            title="Stores, p99",
            description="From a write to a store until its replies were there.",
            queries=[Query(slowest(0.99, "dragoman_store_duration_seconds", "store"), "{{store}}")],
            unit="s",
        ),
        Panel(
            title="Event loops",
            description="By how much the worst timer of a worker came too late.",
            queries=[
                Query(
                    f"max by (instance, worker) (dragoman_event_loop_lag_seconds{{{ALL}}})",
                    "{{instance}} · {{worker}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Memory",
            description="Of each worker. It grows with the tokenizers, not with time.",
            queries=[
                Query(
                    f"max by (instance, worker) (dragoman_resident_memory_bytes{{{ALL}}})",
                    "{{instance}} · {{worker}}",
                )
            ],
            unit="bytes",
        ),
        Panel(
            title="Open files",
            description="Files and connections of each worker.",
            queries=[
                Query(
                    f"max by (instance, worker) (dragoman_open_files{{{ALL}}})",
                    "{{instance}} · {{worker}}",
                )
            ],
        ),
        Panel(
            title="Tasks",
            description="What the event loops have begun and not ended: it follows the requests.",
            queries=[
                Query(
                    f"max by (instance, worker) (dragoman_tasks{{{ALL}}})",
                    "{{instance}} · {{worker}}",
                )
            ],
        ),
        Panel(
            title="Log lines dropped",
            description="What reads the log was too slow. The ledger has no such gaps.",
            queries=[Query(rate("dragoman_log_lines_dropped_total", "instance"), "{{instance}}")],
            unit="ops",
        ),
    ),
)
