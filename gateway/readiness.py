"""Whether the gateway can serve, and what it lacks to serve as it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.departure import Departure
from gateway.store import Stores
from gateway.template_shelf import TemplateShelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`needs_state`: no request is served without the state store.

    A store that is away otherwise is told, but does not take the gateway out of a balancer: all of
    a team's gateways would leave at the same moment, though each can serve.
    """

    shelves: Sequence[TemplateShelf[Any]]
    stores: Stores | None
    departure: Departure | None
    needs_state: bool

    async def look(self) -> tuple[bool, list[str]]:
        """Return whether requests for all models are served, and what is missing."""
        lacking = [*self._lacking()]
        away = await self.stores.missing() if self.stores else {}
        can_serve = not (lacking or (self.needs_state and "state store" in away))
        return can_serve, lacking + [f"{name}: {why}" for name, why in away.items()]

    def _lacking(self) -> list[str]:
        return [
            *(["draining"] * bool(self.departure and self.departure.is_draining)),
            *(f"template {name!r}: loading" for shelf in self.shelves for name in shelf.pending),
            *(
                f"template {name!r}: {why}"
                for shelf in self.shelves
                for name, why in shelf.failed.items()
            ),
        ]
