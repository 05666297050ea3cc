"""The models that clients may ask for, and the targets that serve them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from adapters.base import Task
from gateway.config import Settings
from gateway.errors import model_not_found
from gateway.keys import Caller
from gateway.upstreams.building import build_model, build_upstream
from gateway.upstreams.coldstart import Watches, alone
from gateway.upstreams.hub import HubModels
from gateway.upstreams.providers import served_as
from gateway.upstreams.target import Model
from gateway.upstreams.watcher import NOBODY, Watcher


class Catalog:
    """Names to models. Raises ConfigError when an upstream's credential is not there."""

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport,
        *,
        watches: Watches = alone,
        watcher: Watcher = NOBODY,
    ) -> None:
        """`watches`: how workers let each other know of models that are loading.

        `watcher`: who is told of calls.
        """
        upstreams = {
            one.name: build_upstream(
                one, transport, workers=settings.all_workers, watches=watches, watcher=watcher
            )
            for one in settings.upstreams
        }
        self.models = tuple(build_model(one, upstreams, settings) for one in settings.models)
        self.hub = (
            HubModels(settings, transport, watches=watches, watcher=watcher)
            if settings.hub.enabled
            else None
        )
        self.upstreams = (*upstreams.values(), *(self.hub.upstreams if self.hub else ()))
        self._by_name = {
            name: model for model in self.models for name in (model.id, *model.aliases)
        }

    async def resolve(self, name: str, caller: Caller, *, task: Task) -> Model:
        """Return the model that `caller` means by `name`. Raises as `look_up`.

        One that serves another task is not found either.
        """
        model = await self.look_up(name, caller)
        if model.task != served_as(task):
            raise model_not_found(name)
        return model

    async def look_up(self, name: str, caller: Caller) -> Model:
        """Return the model that `caller` means by `name`, whatever its task.

        Raises BadRequest (404 `model_not_found`) for a name that is unknown or not allowed:
        the two must look alike. Raises GatewayError for a model of the Hub that is there but
        cannot be used, and when the Hub cannot be asked.
        """
        if self.hub and name not in self._by_name:
            model = await self.hub.find(name, caller)
        else:
            model = self.find(name, caller)
        if model is None:
            raise model_not_found(name)
        return model

    def find(self, name: str, caller: Caller) -> Model | None:
        """Return the model that `caller` means by `name`, None if there is none for it.

        A model of the Hub is found once it was asked for.
        """
        model = self._by_name.get(name)
        if model is None and self.hub:
            return self.hub.known(name, caller)
        return model if model is not None and _may_use(caller, model) else None

    def visible_to(self, caller: Caller) -> Iterator[Model]:
        """Yield the configured models that `caller` may use: of the Hub's there are too many."""
        return (model for model in self.models if _may_use(caller, model))


def _may_use(caller: Caller, model: Model) -> bool:
    """Tell whether `caller` may use `model`: any of its names will do, aliases too."""
    return any(map(caller.may_use, (model.id, *model.aliases)))
