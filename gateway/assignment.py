"""What the parent process tells a worker, as one argument of its command line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.config import Settings
from gateway.config_file import load
from gateway.local_models import with_local_upstream


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """`fd`: the socket to accept from. `overrides`: `[server]` keys from the command line.

    `start_fd`: a pipe that ends once all that a worker needs is there; it loads its code meanwhile.

    The URLs are of servers that run here, or of those that the configuration names.
    """

    fd: int
    start_fd: int
    data_dir: str
    config: str | None
    overrides: dict[str, str | int]
    local_url: str
    state_url: str
    cache_url: str

    def settings(self) -> Settings:
        """Return the settings, the embedded upstream included. Raises ConfigError."""
        path = Path(self.config) if self.config else None
        return with_local_upstream(load(path, overrides=self.overrides), self.local_url)

    def render(self) -> str:
        """Return the argument for `parse`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, argument: str) -> Assignment:
        """Return what `render` rendered."""
        return msgspec.json.decode(argument, type=cls)
