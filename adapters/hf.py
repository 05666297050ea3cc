"""The native task API, `POST {base}/models/{id}`: hf-inference and Inference Endpoints."""

from __future__ import annotations

from adapters.base import Request
from adapters.generation import NativeText
from adapters.native import model_path


class HfText(NativeText):
    """One path for answers and streams; a target without a model is an endpoint's root."""

    says_stream = True

    def path(self, request: Request) -> str:
        """Return `/models/{id}`, or `/` where the server holds one model only."""
        return model_path(request.model)
