"""What the parent process tells a worker, in a variable.

Not on the command line, which all users of the machine see: stores' URLs may hold passwords.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gateway.config import Settings
from gateway.config_file import load
from gateway.local_models import with_local_upstream

_VARIABLE = "DRAGOMAN_ASSIGNMENT"


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """`fd`: the socket to accept from. `overrides`: `[server]` keys from the command line.

    `start_fd`: a pipe that ends once all that a worker needs is there; it loads its code meanwhile.
    `ready_fd`: a pipe to which it writes one byte, `worker` - 1, once it accepts connections.
    `loads_first`: it does not accept any before its templates are loaded, as others serve.
    `worker`: its number within its generation, from 1; its successors have the same.

    The URLs are of servers that run here, or of those that the configuration names.
    """

    fd: int
    start_fd: int
    ready_fd: int = -1
    worker: int = 1
    loads_first: bool = False
    data_dir: str
    config: str | None = None
    overrides: dict[str, str | int]
    local_url: str
    state_url: str
    cache_url: str

    def settings(self) -> Settings:
        """Return the settings, the embedded upstream included. Raises ConfigError."""
        path = Path(self.config) if self.config else None
        return with_local_upstream(load(path, overrides=self.overrides), self.local_url)

    def environment(self) -> dict[str, str]:
        """Return what the worker's environment needs for `take`."""
        return {_VARIABLE: msgspec.json.encode(self).decode()}

    @classmethod
    def take(cls) -> Assignment:
        """Return this process's own, once: it is not handed on. Raises KeyError."""
        return msgspec.json.decode(os.environ.pop(_VARIABLE), type=cls)
