"""The objects that count, made of the table of all metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from gateway.metrics.series import METRICS, Metric

# Without types.
_disable_created = cast("Callable[[], None]", disable_created_metrics)

Add = Callable[[float], None]
"""Adds an amount to a counter, or to a histogram as one more observation."""

_write = Struct("dd").pack_into  # a value, and when it was set: of no use here
_COARSE = 1.5 * 2.0**32  # the doubles around it are 2**-20 apart, a microsecond


class Series:
    """The objects that count, in a registry of their own.

    Each look-up takes the values of a metric's labels, in its order. It costs a microsecond or
    two, so what is counted for every request is looked up once. Raises KeyError for what METRICS
    does not have, ValueError for too few or too many values.

    `adder` and `observer` return what takes a sixth of the time of the objects' own methods, 0.1
    and 0.3 µs: those check each time what cannot change, and walk through the buckets.
    """

    def __init__(self) -> None:
        _disable_created()  # a series more for each, which several workers could not tell
        self.registry = CollectorRegistry()
        kept = [metric for metric in METRICS if not metric.is_asked]
        self._counters = {one.name: self._counter(one) for one in kept if one.kind == "counter"}
        self._gauges = {one.name: self._gauge(one) for one in kept if one.kind == "gauge"}
        self._histograms = {
            one.name: self._histogram(one) for one in kept if one.kind == "histogram"
        }

    def counter(self, name: str, *labels: str) -> Counter:
        """Return one counter."""
        return self._counters[name].labels(*labels) if labels else self._counters[name]

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Return one gauge."""
        return self._gauges[name].labels(*labels) if labels else self._gauges[name]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return one histogram."""
        return self._histograms[name].labels(*labels) if labels else self._histograms[name]

    def adder(self, name: str, *labels: str) -> Add:
        """Return what adds to one counter."""
        return _adder(self.counter(name, *labels)._value)

    def observer(self, name: str, *labels: str) -> Add:
        """Return what adds an observation to one histogram."""
        histogram = self.histogram(name, *labels)
        bounds: Sequence[float] = histogram._upper_bounds
        add = _adder(histogram._sum)
        buckets = [_adder(bucket) for bucket in histogram._buckets]

        def observe(amount: float) -> None:
            add(exact(amount))
            buckets[bisect_left(bounds, amount)](1)

        return observe

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(
            metric.name,
            metric.help,
            metric.labels,
            registry=self.registry,
            multiprocess_mode=metric.together,
        )

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(
            metric.name,
            metric.help,
            metric.labels,
            buckets=metric.buckets,
            registry=self.registry,
        )


def _adder(value: Any) -> Add:
    """Return what adds to a value of prometheus_client, on the event loop alone.

    In files its own method takes four times as long: it locks out threads, and asks each time
    whether the process has been forked.
    """
    if not value._multiprocess:
        inc: Add = value.inc
        return inc
    file = value._file
    position: int = file._positions[value._key]

    def add(amount: float) -> None:
        value._value += amount
        _write(file._m, position, value._value, 0.0)

    return add


def exact(amount: float) -> float:
    """Return `amount` to a microsecond, so that sums are the same in whatever order they are made.

    Else the workers' sum could be the least bit smaller than before once others are among them,
    and Prometheus takes a counter that falls for one that has begun again. For up to 2**31.
    """
    return amount + _COARSE - _COARSE
