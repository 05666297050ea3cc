"""`dragoman keys`: the book's keys on the command line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway.book import Book, KeyOptions, Limits, StoredKey
from gateway.config_file import load
from gateway.keys import digest, generate, load_pepper


def options_of(
    *,
    name: str,
    team: str | None,
    models: str | None,
    expires: datetime | None,
    limits: Mapping[str, Any],
) -> KeyOptions:
    """Return what was asked for on the command line. A time without zone is UTC."""
    globs = tuple(glob.strip() for glob in models.split(",") if glob.strip()) if models else None
    if expires and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return KeyOptions(
        name=name,
        team=team,
        models=globs,
        limits=Limits(**limits),
        expires_at=int(expires.timestamp()) if expires else None,
    )


async def create_key(
    config: Path | None, data_dir: Path, options: KeyOptions, *, as_json: bool
) -> None:
    """Create a key and print it."""
    new = generate()
    async with _open_book(config, data_dir) as book:
        await book.create_key(new.id, digest(new.text, load_pepper(data_dir)), options=options)
        stored = next(key for key in await book.list_keys() if key.id == new.id)
    if as_json:
        _print_json({"key": new.text, **_fields(stored)})
    else:
        click.echo(f"{new.text}\n\nThis is key {new.id} of {options.name!r}. It is shown once.")


async def list_keys(config: Path | None, data_dir: Path, *, as_json: bool) -> None:
    """Print all keys, as a table or as JSON."""
    async with _open_book(config, data_dir) as book:
        keys = [_fields(key) for key in await book.list_keys()]
    if as_json:
        _print_json(keys)
        return
    rows = [("ID", "NAME", "TEAM", "MODELS", "STATE", "CREATED")]
    for key in keys:
        models = ",".join(key["models"]) if key["models"] else "all"
        created = key["created_at"]
        rows.append((key["id"], key["name"], key["team"] or "-", models, key["state"], created))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


async def revoke_key(config: Path | None, data_dir: Path, key_id: str, *, as_json: bool) -> None:
    """Revoke a key. Raises UnknownKey."""
    async with _open_book(config, data_dir) as book:
        changed = await book.revoke_key(key_id)
    if as_json:
        _print_json({"id": key_id, "revoked": True, "changed": changed})
    else:
        click.echo(f"Key {key_id} {'is' if changed else 'was already'} revoked.")


@asynccontextmanager
async def _open_book(config: Path | None, data_dir: Path) -> AsyncIterator[Book]:
    book = await Book.open(load(config).store.book or data_dir)
    try:
        yield book
    finally:
        await book.aclose()


def _fields(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "team": key.team,
        "models": key.models,
        "limits": key.limits.given(),
        "metadata": dict(key.metadata),
        "state": _state(key),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at) if key.expires_at else None,
        "revoked_at": _iso(key.revoked_at) if key.revoked_at else None,
    }


def _state(key: StoredKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= time.time() else "active"


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)))
