"""What can go wrong with a store, and how its servers say so.

StoreError
  StoreUnavailable   no connection, no answer in time, or a server that does not serve now
  StoreRefused       the server does not take the command
"""

from __future__ import annotations

# The server is there, but whoever asks it is to act as if it were not.
_NOT_SERVING = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN"})


class StoreError(Exception):
    """The store did not do as asked. The message holds no secret."""


class StoreUnavailable(StoreError):
    """Nothing can be had from the store now. The command may have been done all the same."""


class StoreRefused(StoreError):
    """An error reply. `code` is its first word: `OOM`, `WRONGTYPE`, `ERR` …"""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


def parse_error(message: str) -> StoreError:
    """Return what an error reply means."""
    code = message.partition(" ")[0]
    return StoreUnavailable(message) if code in _NOT_SERVING else StoreRefused(message)
