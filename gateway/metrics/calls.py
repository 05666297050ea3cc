"""Calls to upstreams, and waits for their models, as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.metrics.registry import Add, Series
from gateway.metrics.requests import HUB

if TYPE_CHECKING:
    from gateway.upstreams.target import Model, Target


class Calls:
    """The watcher that counts. Before `know`, and for others than these, models are the Hub's."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._models: dict[Target, str] = {}
        self._counters: dict[tuple[str, str, str], Add] = {}

    def know(self, models: Iterable[Model]) -> None:
        """Learn whose targets are whose."""
        self._models = {target: model.id for model in models for target in model.targets}

    def called(self, target: Target, outcome: str) -> None:
        """Count a call."""
        labels = target.upstream.name, self._models.get(target, HUB), outcome
        add = self._counters.get(labels)
        if add is None:
            name = "dragoman_upstream_calls_total"
            add = self._counters[labels] = self._series.adder(name, *labels)
        add(1)

    def waited_for_loading(self, target: Target, seconds: float) -> None:
        """Count a wait."""
        labels = target.upstream.name, self._models.get(target, HUB)
        self._series.observer("dragoman_model_loading_seconds", *labels)(seconds)
