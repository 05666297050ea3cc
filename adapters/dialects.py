"""The dialects by the name that configuration gives them."""

from __future__ import annotations

from types import MappingProxyType

from adapters.base import Dialect, Task
from adapters.fal import FalImage
from adapters.hf import HfText
from adapters.native_embedding import HfEmbedding, TeiEmbedding
from adapters.native_image import NativeImage
from adapters.native_speech import NativeSpeech
from adapters.native_transcription import NativeTranscription
from adapters.openai import FIREWORKS_SCHEMA, HF_SCHEMA, TOGETHER_SCHEMA, OpenAIText
from adapters.openai_embedding import OpenAIEmbedding
from adapters.openai_image import NSCALE, TOGETHER, OpenAIImage
from adapters.openai_speech import TOGETHER_SPEECH, OpenAISpeech
from adapters.openai_transcription import OpenAITranscription
from adapters.replicate import ReplicateImage, ReplicateSpeech
from adapters.tgi import TgiText

_HF_INFERENCE_CHAT = OpenAIText(by_model=True, schema_form=HF_SCHEMA)
_TOGETHER_TEXT = OpenAIText(schema_form=TOGETHER_SCHEMA)
_FIREWORKS_TEXT = OpenAIText(schema_form=FIREWORKS_SCHEMA)

DIALECTS: MappingProxyType[str, Dialect] = MappingProxyType(
    {
        "hf": {
            Task.CHAT: HfText(),
            Task.COMPLETION: HfText(),
            Task.IMAGE: NativeImage(),
            Task.SPEECH: NativeSpeech(),
            Task.EMBEDDING: HfEmbedding(),
            Task.TRANSCRIPTION: NativeTranscription(),
        },
        "hf-inference": {
            Task.CHAT: _HF_INFERENCE_CHAT,
            Task.COMPLETION: HfText(),
            Task.IMAGE: NativeImage(),
            Task.SPEECH: NativeSpeech(),
            Task.EMBEDDING: HfEmbedding(),
            Task.TRANSCRIPTION: NativeTranscription(),
        },
        "tei": {Task.EMBEDDING: TeiEmbedding()},
        "tgi": {Task.CHAT: TgiText(), Task.COMPLETION: TgiText()},
        "openai": {
            Task.CHAT: OpenAIText(),
            Task.COMPLETION: OpenAIText(),
            Task.IMAGE: OpenAIImage(),
            Task.SPEECH: OpenAISpeech(),
            Task.EMBEDDING: OpenAIEmbedding(),
            Task.TRANSCRIPTION: OpenAITranscription(),
        },
        "chat": {Task.CHAT: OpenAIText()},
        "fireworks": {Task.CHAT: _FIREWORKS_TEXT, Task.COMPLETION: _FIREWORKS_TEXT},
        "together": {
            Task.CHAT: _TOGETHER_TEXT,
            Task.COMPLETION: _TOGETHER_TEXT,
            Task.EMBEDDING: OpenAIEmbedding(),
            Task.IMAGE: TOGETHER,
            Task.SPEECH: TOGETHER_SPEECH,
        },
        "nscale": {Task.CHAT: OpenAIText(), Task.IMAGE: NSCALE},
        "fal": {Task.IMAGE: FalImage()},
        "replicate": {Task.IMAGE: ReplicateImage(), Task.SPEECH: ReplicateSpeech()},
    }
)

UNDER_V1 = frozenset({"openai", "chat", "together", "nscale", "replicate"})
"""Dialects whose servers are meant at `/v1` when they are given without a path."""

AUTH_SCHEMES = MappingProxyType({"fal": "Key"})
"""How a dialect's servers are shown their credential (RFC 9110 §11.4), where not by `Bearer`."""
