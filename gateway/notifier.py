"""What a service manager is told of the gateway's life, as sd_notify(3) has it."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Self

logger = logging.getLogger(__name__)


class Notifier:
    """Sends datagrams to `address`, if there is one. A first `@` stands for an abstract socket."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls) -> Self:
        """Return the notifier of whoever started this process: it says where in a variable."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    def ready(self) -> None:
        """Say that requests are answered, or that a reload is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that a reload begins: `Type=notify-reload` wants to know when that was."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.setblocking(False)
                notify.sendto(state.encode(), address)
        except OSError as exc:
            logger.warning("the service manager does not hear %s: %s", state.split("=")[0], exc)
