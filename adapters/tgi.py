"""A text-generation-inference server at its own root."""

from __future__ import annotations

from adapters.base import Request
from adapters.generation import NativeText


class TgiText(NativeText):
    """`/generate` and `/generate_stream`: the path says whether the answer is streamed."""

    def path(self, request: Request) -> str:
        """Return the path for an answer or for a stream."""
        return "/generate_stream" if request.stream else "/generate"
