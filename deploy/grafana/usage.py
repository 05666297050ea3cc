"""Is it up, and who uses what?"""

from __future__ import annotations

from deploy.grafana.panels import Panel, Query, Row
from deploy.grafana.promql import ALL, ASKED, GEN_AI, MODEL, UPSTREAM, rate

DOWN_AT_0 = ((0, "red"), (1, "green"))

_ASKED = rate("dragoman_http_requests_total", where=ASKED)
_ERRORS = rate("dragoman_http_requests_total", where=f'{ASKED},status=~"5.."')

UP = Row(
    "Is it up?",
    (
        Panel(
            title="Gateways",
            description="Those that Prometheus reaches.",
            queries=[Query(f"count(dragoman_build_info{{{ALL}}})")],
            kind="stat",
            width=3,
            thresholds=DOWN_AT_0,
        ),
        Panel(
            title="Workers",
            description="Processes that serve; after a reload also those that finish streams.",
            queries=[Query(f"sum(dragoman_workers{{{ALL}}})")],
            kind="stat",
            width=3,
            thresholds=DOWN_AT_0,
        ),
        Panel(
            title="Stores",
            description="1: every worker asks it. 0: at least one has given it up for now.",
            queries=[Query(f"min by (store) (dragoman_store_available{{{ALL}}})", "{{store}}")],
            kind="stat",
            width=4,
            thresholds=DOWN_AT_0,
        ),
        Panel(
            title="Errors",
            description="Share of the answers that are 5xx, without /health, /ready and /metrics.",
            queries=[Query(f"({_ERRORS} or vector(0)) / {_ASKED}")],
            unit="percentunit",
            kind="stat",
            width=4,
            thresholds=((0, "green"), (0.005, "orange"), (0.05, "red")),
        ),
        Panel(
            title="Oldest request",
            description="Age of the one that has been under way for longest.",
            queries=[Query(f"max(dragoman_oldest_request_seconds{{{ALL}}})")],
            unit="s",
            kind="stat",
            width=4,
            thresholds=((0, "green"), (900, "orange"), (1800, "red")),
        ),
        Panel(
            title="Version",
            description="How many gateways run which; two while an upgrade rolls.",
            queries=[Query(f"count by (version) (dragoman_build_info{{{ALL}}})", "{{version}}")],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Requests in flight",
            description="Not answered in full, by task; those without one ask no model.",
            queries=[Query(f"sum by (task) (dragoman_requests_in_flight{{{ALL}}})", "{{task}}")],
            is_stacked=True,
        ),
        Panel(
            title="Answers by status",
            description="All of them, refusals too. 0: the client left before there was any.",
            queries=[Query(rate("dragoman_http_requests_total", "status"), "{{status}}")],
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Errors by code",
            description="What clients were told, by the `code` of the error.",
            queries=[Query(rate("dragoman_errors_total", "code"), "{{code}}")],
            unit="reqps",
        ),
        Panel(
            title="Upstreams that would be asked",
            description="1: a request would go there now. 0: it rests, or has asked to wait.",
            queries=[
                Query(
                    f"min by (upstream, model) (dragoman_upstream_available{{{UPSTREAM}}})",
                    "{{upstream}} · {{model}}",
                )
            ],
            kind="bargauge",
            most=1,
            thresholds=DOWN_AT_0,
        ),
        Panel(
            title="Upstream calls by outcome",
            description="Each attempt counts. `crowded` were kept back by the gateway itself.",
            queries=[
                Query(
                    rate("dragoman_upstream_calls_total", "upstream, outcome", where=UPSTREAM),
                    "{{upstream}} · {{outcome}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            title="Retries",
            description="Second and later attempts by model.",
            queries=[Query(rate("dragoman_retries_total", "model", where=MODEL), "{{model}}")],
            unit="reqps",
        ),
    ),
)

_PER_KEY = "Only with `[metrics] per_key = true`; keys beyond the first ones are `_other`."
WHO = Row(
    "Who uses what?",
    (
        Panel(
            title="Requests by model",
            description="Admitted ones: each is a record of the ledger.",
            queries=[Query(rate("dragoman_requests_total", "model", where=UPSTREAM), "{{model}}")],
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Requests by upstream",
            description="Whose they were; those that the cache answered too.",
            queries=[
                Query(rate("dragoman_requests_total", "upstream", where=UPSTREAM), "{{upstream}}")
            ],
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            title="Requests by how they ended",
            description="`disconnected`: the client left. It pays for what it received.",
            queries=[
                Query(
                    rate("dragoman_requests_total", "task, status", where=UPSTREAM),
                    "{{task}} · {{status}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            title="Tokens",
            description="A second, as charged.",
            queries=[
                Query(
                    rate(
                        "gen_ai_client_token_usage_sum",
                        "gen_ai_request_model, gen_ai_token_type",
                        where=GEN_AI,
                    ),
                    "{{gen_ai_request_model}} · {{gen_ai_token_type}}",
                )
            ],
        ),
        Panel(
            title="Images, characters and seconds of sound",
            description="Amounts a second of what is not counted in tokens.",
            queries=[
                Query(rate(f"dragoman_{name}_total", "model", where=UPSTREAM), "{{model}}: " + said)
                for name, said in (
                    ("images", "images"),
                    ("characters", "characters"),
                    ("audio_seconds", "seconds"),
                )
            ],
        ),
        Panel(
            title="Refused by limits",
            description="429s by the limit that was reached, as keys and teams have it.",
            queries=[Query(rate("dragoman_refusals_total", "limit"), "{{limit}}")],
            unit="reqps",
        ),
        Panel(
            title="Requests by key",
            description=_PER_KEY,
            queries=[Query(f"topk(10, {rate('dragoman_key_requests_total', 'key')})", "{{key}}")],
            unit="reqps",
        ),
        Panel(
            title="Tokens by key",
            description=_PER_KEY,
            queries=[
                Query(
                    f"topk(10, {rate('dragoman_key_tokens_total', 'key, type')})",
                    "{{key}} · {{type}}",
                )
            ],
        ),
        Panel(
            title="At the limits",
            description="`degraded`: admitted without the state store, by the worker's own count.",
            queries=[Query(rate("dragoman_reservations_total", "outcome"), "{{outcome}}")],
            unit="reqps",
            is_stacked=True,
        ),
    ),
)
