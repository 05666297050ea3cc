"""The models of `dragoman local`, as the catalogue has them when nothing is configured."""

from __future__ import annotations

from pathlib import Path

from gateway.config import LOCAL_UPSTREAM, Hub, Settings
from gateway.config_catalog import Defaults, Embedding, Model, Target, Upstream

_TOKENIZERS = Path(__file__).parent.parent / "adapters" / "local" / "tokenizers"


def with_local_upstream(settings: Settings, base_url: str) -> Settings:
    """Return `settings` with the local model server and its models, where nothing is configured.

    The Hub's models are there too, if its credential is.
    """
    if not settings.is_embedded:
        return settings
    local = Upstream(name=LOCAL_UPSTREAM, dialect="hf", base_url=base_url)
    chat = Model(
        id="HuggingFaceTB/SmolLM2-135M-Instruct",
        aliases=("local-chat",),
        tokenizer=str(_TOKENIZERS / "SmolLM2-135M-Instruct"),
        targets=(Target(upstream=LOCAL_UPSTREAM),),
        max_tokens_default=512,
        context_length=4096,
        defaults=Defaults(temperature=0.2, top_p=0.9, repetition_penalty=1.1),
    )
    image = Model(
        id="dragoman/emoji-flow",
        aliases=("local-image",),
        task="image",
        targets=(Target(upstream=LOCAL_UPSTREAM),),
    )
    speech = Model(
        id="hibari-tts/heart",
        aliases=("local-speech",),
        task="speech",
        targets=(Target(upstream=LOCAL_UPSTREAM),),
        default_voice="heart",
        voice_parameter="voice",
        speed_parameter="speed",
    )
    embedding = Model(
        id="sentence-transformers/all-MiniLM-L6-v2",
        aliases=("local-embedding",),
        task="embedding",
        tokenizer=str(_TOKENIZERS / "all-MiniLM-L6-v2"),
        targets=(Target(upstream=LOCAL_UPSTREAM),),
        embedding=Embedding(dimensions=(384,)),
    )
    transcription = Model(
        id="openai/whisper-tiny.en",
        aliases=("local-transcription",),
        task="transcription",
        targets=(Target(upstream=LOCAL_UPSTREAM),),
    )
    models = (chat, image, speech, embedding, transcription, *settings.models)
    update = {"upstreams": (local,), "models": models, "hub": _hub_beside(settings.hub)}
    return settings.model_copy(update=update)


def _hub_beside(hub: Hub) -> Hub:
    """Return `hub`, enabled if nobody has said otherwise and it can be asked."""
    return hub.model_copy(update={"enabled": hub.has_key}) if hub.enabled is None else hub
