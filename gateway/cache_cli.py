"""`dragoman cache`: the answers that are kept, on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapters.base import Json
from gateway.command_line import (
    Desk,
    as_json_option,
    at_desk,
    common,
    print_fields,
    print_json,
    print_table,
)
from gateway.command_options import NAME
from gateway.fields import InvalidField, model_id, model_names

if TYPE_CHECKING:
    from gateway.cache.files import AnswerFiles
    from gateway.store import Store

_PATIENCE_SECONDS = 5.0  # no client waits


@click.group()
def cache() -> None:
    """Look at the answers that are kept, and delete them. Works while the gateway runs."""


@cache.command()
@as_json_option
@common
def stats(config: Path | None, data_dir: Path, as_json: bool) -> None:
    """Show how many answers are kept, how large they are, and how often they were of use.

    Bytes are those of the answers as they are kept, compressed; large answers are files in the
    data directory of the gateway that made them. Hits and the like are counted by all workers
    since the cache server began.
    """

    async def work(desk: Desk) -> None:
        found = await _stats(desk)
        if as_json:
            print_json(found)
        else:
            await _print_stats(found)

    at_desk(config, data_dir, work)


@cache.command()
@click.option("--model", type=NAME, help="Answers of the model with this id or alias only.")
@click.option(
    "--key", "key_id", metavar="ID", type=NAME, help="Answers of this key only; for scope 'key'."
)
@as_json_option
@common
def clear(
    config: Path | None, data_dir: Path, model: str | None, key_id: str | None, as_json: bool
) -> None:
    """Delete the answers that are kept: all, or those of a model, of a key, or of both.

    The next requests are answered by the upstreams again. Nothing else is touched.
    """
    cleared = at_desk(config, data_dir, lambda desk: _clear(desk, model, key_id))
    if as_json:
        print_json(cleared)
    else:
        click.echo(f"Answers deleted: {cleared['answers']}, files of them: {cleared['files']}.")


async def _stats(desk: Desk) -> Json:
    from gateway.cache.inventory import describe_server, holdings, totals

    files, size_bytes = _files(desk).measure()
    async with _cache_store(desk) as store:
        held = await holdings(store)
        return {
            "models": [
                {"model": model, "answers": one.answers, "bytes": one.size_bytes}
                for model, one in held.items()
            ],
            "totals": await totals(store),
            "server": asdict(await describe_server(store)),
            "files": {"count": files, "bytes": size_bytes},
        }


async def _print_stats(found: Json) -> None:
    async def rows() -> AsyncIterator[list[list[object]]]:
        yield [list(one.values()) for one in found["models"]]

    await print_table(("model", "answers", "bytes"), rows(), numbers=("answers", "bytes"))
    click.echo()
    server, files = found["server"], found["files"]
    limit = _megabytes(server["limit_bytes"]) if server["limit_bytes"] else "no limit"
    print_fields(
        {
            **found["totals"],
            "memory": f"{_megabytes(server['used_bytes'])} of {limit}",
            "evicted": server["evicted_keys"],
            "files": f"{files['count']}, {_megabytes(files['bytes'])}",
        }
    )


async def _clear(desk: Desk, model: str | None, key_id: str | None) -> Json:
    from gateway.cache.inventory import clear

    scope = None if key_id is None else await _scope_of(desk, key_id)
    model = _model_id(desk, model)
    async with _cache_store(desk) as store:
        return asdict(await clear(store, _files(desk), model=model, scope=scope))


async def _scope_of(desk: Desk, key_id: str) -> str:
    from gateway.book import UnknownKey
    from gateway.cache.keys import scope_of

    setting = desk.settings.cache.scope
    if setting != "key":
        raise InvalidField(
            "key", f"answers are not kept by key: they are shared, as cache.scope is {setting!r}"
        )
    try:
        await desk.book.show_key(key_id)
    except UnknownKey as exc:
        raise InvalidField("key", str(exc)) from None
    return scope_of(setting, key_id, None)


def _model_id(desk: Desk, name: str | None) -> str | None:
    models = desk.settings.models
    if name is not None and name not in (names := model_names(models)):
        raise InvalidField("model", f"expected one of {', '.join(names)}, got {name!r}")
    return model_id(name, models)


def _files(desk: Desk) -> AnswerFiles:
    from gateway.cache.files import FOLDER, AnswerFiles

    return AnswerFiles(desk.data_dir / FOLDER, limit_bytes=0)


@asynccontextmanager
async def _cache_store(desk: Desk) -> AsyncIterator[Store]:
    """Yield the cache store. Raises StoreUnavailable, which says what is to be done."""
    from gateway import embedded
    from gateway.store import Store, StoreUnavailable

    url = desk.settings.store.cache
    store = Store(
        url or embedded.urls(desk.data_dir)[1],
        name="the cache store",
        timeout_seconds=_PATIENCE_SECONDS,
    )
    try:
        yield store
    except StoreUnavailable as exc:
        if url is not None:
            raise StoreUnavailable(f"the cache store does not answer: {exc}") from None
        raise StoreUnavailable(
            f"no gateway runs on {str(desk.data_dir)!r}: its cache server runs with it, and keeps "
            "no answer beyond"
        ) from None
    finally:
        await store.aclose()


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:.1f} MiB"
