"""One request as the edge sees it, and who is told of it: metrics, logs, traces."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from litestar.types import HTTPScope

    from gateway.exchange import Exchange

ACCESS = "dragoman.access"
"""Where an ASGI scope has the access that it belongs to."""


@dataclass(slots=True, eq=False)
class Access:
    """One request, from its first byte to the answer's last, whatever became of it.

    `route`: the template of its path, empty for a path that is none. `status`: 0 while no answer
    has begun. `code`: of the error that was answered, if it was one before a stream began.
    `exchange`: what it asked of a model, None for anything else; what that has used stands in
    its `record`.
    """

    id: str
    method: str
    began: float = field(default_factory=time.perf_counter)
    route: str = ""
    status: int = 0
    sent_bytes: int = 0
    is_complete: bool = False  # the answer's last byte was sent
    seconds: float = 0  # complete once it has ended
    code: str | None = None
    exchange: Exchange | None = None
    trace: tuple[tuple[str, str], ...] = ()  # headers that let an upstream go on with its trace
    excerpt: bytearray | None = None  # of the answer's body, for whoever sets it
    excerpt_bytes: int = 0  # at most

    def note_sent(self, body: bytes) -> None:
        """Count what was sent."""
        self.sent_bytes += len(body)
        if self.excerpt is not None and (room := self.excerpt_bytes - len(self.excerpt)) > 0:
            self.excerpt += body[:room]


class Observer(Protocol):
    """Who is told of every request. Neither call may raise, or take long."""

    def began(self, access: Access, scope: HTTPScope) -> None:
        """Hear of a request whose head has come."""

    def ended(self, access: Access, scope: HTTPScope) -> None:
        """Hear that its answer was sent, or that its client has left."""
