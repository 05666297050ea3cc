"""`dragoman explain`: what a request would become, on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from adapters.base import Json
from gateway.command_line import as_json_option, common, print_fields, print_json, print_table
from gateway.command_options import NAME

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.upstreams.catalog import Catalog

_NUMBERS = ("place", "priority", "weight")
_COLUMNS = ("place", "model", "upstream", "name", *_NUMBERS[1:], "state", "why")
_OBSTACLES = {
    "unwanted": "not used: the client wants none",
    "ttl_zero": "not used: answers of this model are kept for 0 s",
    "unseeded": "not used: it would be drawn anew each time, as it has no seed",
}
_NOBODY = "00000000"


@click.command()
@click.argument("request_file", metavar="[FILE]", type=click.File("rb"), default="-")
@click.option("--model", type=NAME, help="Model to ask for, instead of the request's own.")
@click.option(
    "--route",
    metavar="PATH",
    help="Route that it is meant for, as /v1/completions.  [default: follows from the request]",
)
@click.option(
    "--key",
    "key_id",
    metavar="ID",
    type=NAME,
    default=_NOBODY,
    show_default=True,
    help="Key that asks. Answers are kept by key.",
)
@as_json_option
@common
def explain(
    config: Path | None,
    data_dir: Path,
    as_json: bool,
    request_file: IO[bytes],
    model: str | None,
    route: str | None,
    key_id: str,
) -> None:
    """Show what the OpenAI request in FILE, or on standard input, would become. Nothing is sent.

    Needs neither a running gateway nor its stores: limits, and what is known of upstreams'
    health, are shown by POST /v1/explain.
    """
    data = request_file.read()
    told = asyncio.run(_explain(config, data, model=model, route=route, key_id=key_id))
    if as_json:
        print_json(told)
    else:
        asyncio.run(_print(told))


async def _explain(
    config: Path | None, data: bytes, *, model: str | None, route: str | None, key_id: str
) -> Json:
    """Return the explanation. Raises ConfigError, GatewayError."""
    from adapters.transport import Transport
    from gateway.config_file import load
    from gateway.explanation import Explainer
    from gateway.local_models import with_local_upstream
    from gateway.tasks.tasks import Tasks
    from gateway.upstreams.catalog import Catalog

    settings = with_local_upstream(load(config), "http://127.0.0.1")
    async with Transport() as transport:
        catalog = Catalog(settings, transport)
        exchange = _exchange(catalog, data, model=model, route=route, key_id=key_id)
        asked = await catalog.resolve(exchange.model, exchange.caller, task=exchange.task)
        async with Tasks([asked], settings) as tasks:
            await tasks.loaded()
            body = await Explainer(catalog, tasks, settings)(exchange)
    told: Json = msgspec.json.decode(body.data)
    return told


def _exchange(
    catalog: Catalog, data: bytes, *, model: str | None, route: str | None, key_id: str
) -> Exchange:
    """Return the exchange that the request is. Raises BadRequest."""
    from gateway.exchange import Exchange
    from gateway.explanation import read_request
    from gateway.keys import Caller
    from gateway.requests import decode_body

    caller = Caller(id=key_id, name="")
    sent = decode_body(data)
    if model is not None and isinstance(sent, dict):
        sent["model"] = model
    asked = read_request(sent, caller, catalog, route=route)
    return Exchange(
        id="",
        task=asked.task,
        caller=caller,
        body=asked.body,
        form=asked.form,
        unheard=asked.unheard,
    )


async def _print(told: Json) -> None:
    """Print all of it for people."""
    cache, reserved = told["cache"], told["reservation"]["amounts"]
    print_fields(
        {
            "task": told["task"],
            "model": told["model"],
            "ignored": ", ".join(told["ignored"]),
            "cache": _use(cache),
            "reserved": {name: amount for name, amount in reserved.items() if amount},
        }
    )
    click.echo()
    await print_table(_COLUMNS, _rows(told["targets"]), numbers=_NUMBERS)
    for request in told["requests"]:
        _print_request(request)
    for prompt in told["prompts"]:
        click.echo(f"\nprompt\n{prompt}")
    for answer in cache["answers"] if cache["obstacle"] is None else ():
        click.echo(f"\ncache key {answer['key']}, of")
        print_json(answer["made_of"])


async def _rows(targets: list[Json]) -> AsyncIterator[list[list[Any]]]:
    yield [[target[column] for column in _COLUMNS] for target in targets]


def _use(cache: Json) -> str:
    """Return what the cache does for the answer."""
    if cache["obstacle"]:
        return _OBSTACLES[cache["obstacle"]]
    uses = {
        "looked up": cache["is_read"],
        f"kept for {cache['ttl_seconds']} s": cache["is_written"],
    }
    return ", ".join(use for use, is_so in uses.items() if is_so)


def _print_request(request: Json) -> None:
    click.echo(f"\n{request['method']} {request['url']}")
    for name, value in request["headers"].items():
        click.echo(f"{name}: {value}")
    click.echo()
    body = request["body"]
    if isinstance(body, str):
        click.echo(body)
    else:
        print_json(body)
