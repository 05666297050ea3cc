"""PromQL as the panels need it, over what is chosen at the dashboard's top."""

from __future__ import annotations

from deploy.grafana.panels import Query

ALL = 'instance=~"$instance"'
MODEL = f'{ALL},model=~"$model"'
UPSTREAM = f'{MODEL},upstream=~"$upstream"'
GEN_AI = f'{ALL},gen_ai_request_model=~"$model"'
ASKED = f'{ALL},route!~"/health|/ready|/metrics"'


def rate(metric: str, by: str = "", *, where: str = ALL) -> str:
    """Return a counter's rate per second, summed by the labels `by`."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def increase(metric: str, by: str = "", *, where: str = ALL) -> str:
    """Return by how much a counter has grown in the time that the dashboard shows."""
    return f"sum by ({by}) (increase({metric}{{{where}}}[$__range]))"


def slowest(share: float, metric: str, by: str = "", *, where: str = ALL) -> str:
    """Return what `share` of a histogram's observations stay below."""
    le = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', le, where=where)})"


def quantiles(metric: str, *, where: str = ALL) -> list[Query]:
    """Return the median and the slowest twentieth and hundredth."""
    return [Query(slowest(n / 100, metric, where=where), f"p{n}") for n in (50, 95, 99)]
