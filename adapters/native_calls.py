"""Requests of the native API's own clients, passed on to servers that speak it: where they go.

    client                     hf                              tgi               tei
    /models/{id}               /models/{id}                    /                 / or the task's
    …/generate                 /models/{id}                    /generate         -
    …/generate_stream          /models/{id}, `stream`          /generate_stream  -
    /pipeline/{task}/{id}      /models/{id}/pipeline/{task}    /                 the task's

Sources: text-generation-inference 3.3 and text-embeddings-inference 1.9, router/src/server.rs;
huggingface_hub 2.4, inference/_providers/hf_inference.py.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from adapters.native import model_path

NATIVE = frozenset({"hf", "hf-inference", "tgi", "tei"})
"""The dialects whose servers take such requests as they are."""

WITH_OPERATIONS = frozenset({"tgi"})
"""Those of them that have a path for each operation."""

_TEI_PATHS = MappingProxyType(
    {
        "feature-extraction": "/embed",
        "sentence-similarity": "/similarity",
        "text-classification": "/predict",
        "text-ranking": "/rerank",
    }
)


class Operation(StrEnum):
    """What is asked of a model. Its value is the end of the path."""

    PREDICT = ""
    GENERATE = "generate"
    GENERATE_STREAM = "generate_stream"


def native_path(dialect: str, model: str, operation: Operation, pipeline: str | None) -> str:
    """Return the path at a server of one of the dialects NATIVE."""
    match dialect:
        case "tgi":
            return f"/{operation}"
        case "tei":
            return _TEI_PATHS.get(pipeline or "", "/")
        case _:
            path = model_path(model)
            return f"{path}/pipeline/{pipeline}" if pipeline and model else path
