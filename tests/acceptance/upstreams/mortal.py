"""An upstream in a process of its own, which can be killed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.acceptance.recordings import LAST_CHUNK, recording

ROOT = Path(__file__).parents[3]


class Mortal:
    """Answers completions after `seconds`, until it is killed; `start` brings it back."""

    def __init__(self, *, seconds: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._seconds = seconds

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Begin to listen."""
        command = [sys.executable, "-m", __name__, str(self._port), str(self._seconds)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def kill(self) -> None:
        """End it at once, and all that is under way."""
        self._process.kill()
        self._process.communicate()


async def _serve(port: int, seconds: float) -> None:
    whole = recording("native/plain.answer").whole()
    stream = recording("native/plain.stream")
    streamed = stream.chunked(*stream.events) + LAST_CHUNK

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            body = await reader.readexactly(length)
            await asyncio.sleep(seconds)
            writer.write(streamed if b'"stream":true' in body else whole)

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
