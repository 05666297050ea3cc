"""The Hub's word on a model: what it does, and which inference providers serve it.

Source of the table: `huggingface_hub` 2.4, `inference/_providers`. All of them are reached through
the router and shown the same credential; what they are sent differs by dialect. Providers that
answer by polling alone (wavespeed, z.ai's images) are left out.

The order of a model's providers is the Hub's: that of the account's own preferences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from adapters.base import Task
from adapters.dialects import DIALECTS
from adapters.native_calls import NATIVE

_LONGEST_NAME = 200  # of a model, by its provider


@dataclass(frozen=True, slots=True)
class Provider:
    """Where it is below the router's address, and what it speaks there."""

    path: str
    dialect: str


HF_INFERENCE = "hf-inference"
PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        HF_INFERENCE: Provider("/hf-inference", "hf-inference"),
        "together": Provider("/together/v1", "together"),
        "deepinfra": Provider("/deepinfra/v1/openai", "openai"),
        "nscale": Provider("/nscale/v1", "nscale"),
        "fal-ai": Provider("/fal-ai", "fal"),
        "replicate": Provider("/replicate/v1", "replicate"),
        "groq": Provider("/groq/openai/v1", "openai"),
        "fireworks-ai": Provider("/fireworks-ai/inference/v1", "fireworks"),
        "cohere": Provider("/cohere/compatibility/v1", "fireworks"),
        "novita": Provider("/novita/v3/openai", "openai"),
        "zai-org": Provider("/zai-org/api/paas/v4", "chat"),
        "baseten": Provider("/baseten/v1", "openai"),
        "cerebras": Provider("/cerebras/v1", "openai"),
        "featherless-ai": Provider("/featherless-ai/v1", "openai"),
        "ovhcloud": Provider("/ovhcloud/v1", "openai"),
        "publicai": Provider("/publicai/v1", "openai"),
        "scaleway": Provider("/scaleway/v1", "openai"),
    }
)
AUTO = Provider("/v1", "chat")
"""The router's own choice among a chat model's providers."""

# The Hub's task, of a model or of what a provider does with it → ours. All others are those that
# only clients of the native API can ask for.
_TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "conversational": Task.CHAT,
        "image-text-to-text": Task.CHAT,
        "text-generation": Task.COMPLETION,
        "text-to-image": Task.IMAGE,
        "text-to-speech": Task.SPEECH,
        "text-to-audio": Task.SPEECH,
        "feature-extraction": Task.EMBEDDING,
        "sentence-similarity": Task.EMBEDDING,
        "automatic-speech-recognition": Task.TRANSCRIPTION,
    }
)


@dataclass(frozen=True, slots=True)
class Offer:
    """One provider's serving of a model, by the provider's name of it."""

    provider: str
    model: str
    task: Task


@dataclass(frozen=True, slots=True)
class Facts:
    """What the Hub says of a model. `offers` are those that can be taken up now, in its order."""

    id: str
    task: str
    is_gated: bool
    offers: tuple[Offer, ...]


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    provider_id: str
    task: str
    provider: str = ""


class _Answer(msgspec.Struct, frozen=True):
    id: str
    pipeline_tag: str | None = None
    gated: bool | str = False
    providers: dict[str, _Entry] | list[_Entry] | None = msgspec.field(
        default=None, name="inferenceProviderMapping"
    )


FIELDS = ("pipeline_tag", "gated", "inferenceProviderMapping")
"""What the Hub is to tell of a model beside its id."""

_read = msgspec.json.Decoder(_Answer).decode


def parse_facts(body: bytes) -> Facts:
    """Return what the Hub's answer says. Raises msgspec.DecodeError for what is none."""
    answer = _read(body)
    offers = tuple(
        offer for name, entry in _entries(answer) if (offer := _offer(name, entry)) is not None
    )
    return Facts(answer.id, _task(answer, offers), bool(answer.gated), offers)


def _entries(answer: _Answer) -> list[tuple[str, _Entry]]:
    """Return who serves it: the Hub has sent both forms, and a mirror may send none.

    Then hf-inference is asked, as it was for every model before there were others.
    """
    match answer.providers:
        case None:
            entry = _Entry("live", answer.id, answer.pipeline_tag or "")
            return [(HF_INFERENCE, entry)]
        case dict() as named:
            return list(named.items())
        case listed:
            return [(entry.provider, entry) for entry in listed]


def _offer(name: str, entry: _Entry) -> Offer | None:
    """Return what can be asked for, None if nothing can: unknown, broken or not for everybody."""
    provider = PROVIDERS.get(name)
    if provider is None or entry.status != "live" or len(entry.provider_id) > _LONGEST_NAME:
        return None
    task = _ours(entry.task)
    known = (
        provider.dialect in NATIVE if task is Task.PIPELINE else task in DIALECTS[provider.dialect]
    )
    return Offer(name, entry.provider_id, task) if known else None


def _task(answer: _Answer, offers: tuple[Offer, ...]) -> str:
    """Return the model's task as the catalogue names it: by its own tag, else by an offer."""
    if answer.pipeline_tag:
        return served_as(_ours(answer.pipeline_tag))
    return served_as(next((offer.task for offer in offers), Task.PIPELINE))


def _ours(task: str) -> Task:
    return _TASKS.get(task, Task.PIPELINE)


def served_as(task: Task) -> str:
    """Return the task of the models that serve `task`."""
    return Task.CHAT if task is Task.COMPLETION else task
