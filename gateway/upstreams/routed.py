"""Models of the Hub as the catalogue has them: their targets are behind the Hub's router."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256

import httpx

from adapters.base import Task
from gateway.config import Settings
from gateway.config_catalog import Embedding
from gateway.config_catalog import Upstream as UpstreamSettings
from gateway.prices import Price
from gateway.upstreams.building import build_upstream
from gateway.upstreams.coldstart import Watches
from gateway.upstreams.providers import AUTO, PROVIDERS, Facts, Provider, served_as
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.target import Model, Target, Upstream
from gateway.upstreams.watcher import NOBODY, Watcher
from gateway.voices import Voices

_NAME = re.compile(r"(\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b)(?::([a-z0-9-]{1,40}))?", flags=re.ASCII)
_NEVER_IN_IDS = ("--", "..")
_POLICIES = frozenset({"fastest", "cheapest", "preferred"})
_AUTO = "auto"
_MAX_TOKENS_DEFAULT = 1024


@dataclass(frozen=True, slots=True)
class HubName:
    """A client's name of a model of the Hub: `owner/name`, maybe `:provider` or `:policy`."""

    text: str
    id: str
    choice: str | None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """Return the name that `text` is, None if nothing on the Hub can have it."""
        found = _NAME.fullmatch(text)
        if found is None or any(one in text for one in _NEVER_IN_IDS):
            return None
        return cls(text, *found.groups())


class RoutedModels:
    """Builds models. All providers are one upstream each, with a queue and a health of its own.

    Raises ConfigError when the credential is not there.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport,
        *,
        watches: Watches,
        watcher: Watcher = NOBODY,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._watches = watches
        self._watcher = watcher
        self._upstreams = {
            name: self._upstream(name, provider)
            for name, provider in {**PROVIDERS, _AUTO: AUTO}.items()
        }

    @property
    def router(self) -> Upstream:
        """The one that chooses among providers itself."""
        return self._upstreams[_AUTO]

    @property
    def upstreams(self) -> Collection[Upstream]:
        """All of them, the router included."""
        return self._upstreams.values()

    def build(self, name: HubName, facts: Facts) -> Model | None:
        """Return the model, None if nobody serves it, or not the one that is asked for."""
        targets = tuple(
            self._target(*way, priority=priority, is_gated=facts.is_gated)
            for priority, way in enumerate(_ways(name, facts))
        )
        if not targets:
            return None
        return Model(
            id=name.text,
            aliases=(),
            task=facts.task,
            tokenizer=None,
            targets=targets,
            retries=RetryBudget(self._settings.retries.share),
            cache_ttl_seconds=self._settings.cache.ttl_seconds,
            max_tokens_default=_MAX_TOKENS_DEFAULT,
            defaults={},
            fingerprint="fp_" + sha256(repr((name, facts)).encode()).hexdigest()[:12],
            voices=Voices(),
            embedding=Embedding(),
            price=Price(),
        )

    def _target(self, provider: str, model: str, *, priority: int, is_gated: bool) -> Target:
        return Target(
            self._upstreams[provider],
            model,
            priority=priority,
            refusal_seconds=self._settings.cache.refusal_seconds,
            is_gated=is_gated,
        )

    def _upstream(self, name: str, provider: Provider) -> Upstream:
        hub = self._settings.hub
        settings = UpstreamSettings(
            name=f"hub.{name}",
            dialect=provider.dialect,
            base_url=hub.router_url.rstrip("/") + provider.path,
            api_key_env=hub.api_key_env,
        )
        # The router takes the Hub's token, whatever the provider's own API does.
        return build_upstream(
            settings,
            self._transport,
            workers=self._settings.all_workers,
            watches=self._watches,
            watcher=self._watcher,
            scheme="Bearer",
        )


def _ways(name: HubName, facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield who may be asked for the model and by what name, in order.

    For a chat it is the router that chooses, by the account's preferences or the policy that
    the client names: its own list is fresher than ours. It has nothing but chats.
    """
    offers = [offer for offer in facts.offers if served_as(offer.task) == facts.task]
    is_free = name.choice is None or name.choice in _POLICIES
    if is_free and any(offer.task is Task.CHAT for offer in offers):
        yield _AUTO, f"{facts.id}:{name.choice}" if name.choice else facts.id
        offers = [offer for offer in offers if offer.task is not Task.CHAT]
    for offer in offers:
        if name.choice in (None, offer.provider):
            yield offer.provider, offer.model
