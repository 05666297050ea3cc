"""What `/metrics` tells, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample


@dataclass(frozen=True, slots=True)
class Told:
    """All samples of one answer. `families` are the names as METRICS has them."""

    families: frozenset[str]
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Return what `text` tells; raises ValueError for what is no metrics."""
        families = list(parse(text))
        return cls(
            frozenset(
                f"{one.name}_total" if one.type == "counter" else one.name for one in families
            ),
            tuple(sample for one in families for sample in one.samples),
        )

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of a sample over all series that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """Return all values of a label."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}

    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        """Return what tells all series apart."""
        return {(sample.name, frozenset(sample.labels.items())) for sample in self.samples}
