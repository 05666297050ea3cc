"""What is to be fetched: a request to one target, for whom, and how patiently."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.base import Request, Translator
from gateway.upstreams.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A request to `target`. `sender` is whose turn its calls take: a key's id.

    `waits`: it is patient while the model loads. `trace`: headers that go with its calls.
    """

    target: Target
    request: Request
    sender: str
    waits: bool = True
    trace: tuple[tuple[str, str], ...] = ()

    @property
    def translator(self) -> Translator:
        """What the target's dialect has for its task."""
        return self.target.upstream.dialect[self.request.task]
