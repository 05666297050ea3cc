"""What the native API tells of models and keys, from what the catalogue and the keyring know.

Sources: text-generation-inference 3.3, docs/openapi.json (`Info`); huggingface_hub 0.26,
`get_model_status`, `list_deployed_models`, `whoami`.
"""

from __future__ import annotations

from types import MappingProxyType

from adapters.base import Json
from gateway import __version__
from gateway.keys import Caller
from gateway.upstreams.target import Model

_NAMES = MappingProxyType(
    {
        "chat": ("text-generation", "text-generation-inference"),
        "image": ("text-to-image", "diffusers"),
        "speech": ("text-to-speech", "transformers"),
        "embedding": ("feature-extraction", "sentence-transformers"),
        "transcription": ("automatic-speech-recognition", "transformers"),
    }
)
_OTHER = ("pipeline", "transformers")
_STATES = MappingProxyType({"ready": "Loaded", "loading": "Loadable", "cold": "Loadable"})


def info(model: Model) -> Json:
    """Return what `/info` tells, as far as it is known here."""
    told: Json = {
        "model_id": model.id,
        "model_sha": None,
        "model_pipeline_tag": _names(model)[0],
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_client_batch_size": 4,
        "router": "dragoman",
        "version": __version__,
    }
    if length := model.context_length:
        told |= {"max_input_tokens": length - 1, "max_total_tokens": length}
    return told


def status(model: Model) -> Json:
    """Return whether a model is loaded. On which machine it runs is not known here."""
    framework = _names(model)[1]
    return {
        "loaded": model.state == "ready",
        "state": _STATES.get(model.state, "Loadable"),
        "compute_type": "unknown",
        "framework": framework,
    }


def is_healthy(model: Model) -> bool:
    """Tell whether a model can be asked: whatever has not failed can, also for the first time."""
    return model.state in ("ready", "cold")


def is_of(model: Model, framework: str) -> bool:
    """Tell whether a model is one of those that `/framework/{framework}` lists."""
    return _names(model)[1] == framework


def listed(model: Model) -> Json:
    """Return an entry of `/framework`."""
    return {"model_id": model.id, "task": _names(model)[0]}


def whoami(caller: Caller) -> Json:
    """Return whose key it is, as the Hub's `/api/whoami-v2` does."""
    return {
        "type": "user",
        "id": caller.id,
        "name": caller.name,
        "fullname": caller.name,
        "isPro": False,
        "orgs": [{"type": "org", "name": caller.team}] if caller.team else [],
        "auth": {
            "type": "access_token",
            "accessToken": {"displayName": caller.name, "role": "read"},
        },
    }


def _names(model: Model) -> tuple[str, str]:
    """Return the native name of a model's task, and the library that is known for it."""
    return _NAMES.get(model.task, _OTHER)
