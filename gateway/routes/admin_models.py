"""The admin API's models: the whole catalogue, with what stands behind each name."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

from adapters.base import Json
from gateway.routes.parameters import page, read_query
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model, Target
from gateway.usage_report import format_usd


@get("/models")
async def list_models(request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]) -> Json:
    """List all models, with their targets, upstreams, states and prices."""
    read_query(request)
    return page([_describe(model) for model in catalog.models])


def _describe(model: Model) -> Json:
    price = model.price
    return {
        "id": model.id,
        "aliases": model.aliases,
        "task": model.task,
        "state": model.state,
        "targets": [_describe_target(target) for target in model.targets],
        "price": {
            "input_usd_per_million": format_usd(price.input_tokens),
            "output_usd_per_million": format_usd(price.output_tokens),
            "usd_per_million_characters": format_usd(price.characters),
            "usd_per_image": format_usd(price.image),
            "usd_per_audio_minute": format_usd(price.audio_minute),
        },
    }


def _describe_target(target: Target) -> Json:
    return {
        "upstream": target.upstream.name,
        "dialect": target.upstream.dialect_name,
        "model": target.model,
        "weight": target.weight,
        "state": target.state,
    }


HANDLERS = (list_models,)
