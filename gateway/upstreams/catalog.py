"""The models that clients may ask for, and the targets that serve them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from adapters.base import Task
from gateway.config import Settings
from gateway.errors import model_not_found
from gateway.keys import Caller
from gateway.upstreams.building import build_model, build_upstream
from gateway.upstreams.target import Model

_SERVED_AS = {Task.COMPLETION: Task.CHAT}


class Catalog:
    """Names to models. Raises ConfigError when an upstream's credential is not there."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport) -> None:
        upstreams = {
            one.name: build_upstream(one, transport, workers=settings.all_workers)
            for one in settings.upstreams
        }
        self.models = tuple(build_model(one, upstreams, settings) for one in settings.models)
        self._by_name = {
            name: model for model in self.models for name in (model.id, *model.aliases)
        }

    async def resolve(self, name: str, caller: Caller, *, task: Task) -> Model:
        """Return the model that `caller` means by `name`.

        Raises BadRequest (404 `model_not_found`) for a name that is unknown or not allowed:
        the two must look alike; and for one that serves another task.
        """
        model = self.find(name, caller)
        if model is None or model.task != _SERVED_AS.get(task, task):
            raise model_not_found(name)
        return model

    def find(self, name: str, caller: Caller) -> Model | None:
        """Return the model that `caller` means by `name`, None if there is none for it."""
        model = self._by_name.get(name)
        return model if model is not None and _may_use(caller, model) else None

    def visible_to(self, caller: Caller) -> Iterator[Model]:
        """Yield the models that `caller` may use."""
        return (model for model in self.models if _may_use(caller, model))


def _may_use(caller: Caller, model: Model) -> bool:
    """Tell whether `caller` may use `model`: any of its names will do, aliases too."""
    return any(map(caller.may_use, (model.id, *model.aliases)))
