"""The `dragoman` command, run in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner, Result

from gateway.book import Book
from gateway.cli import main

T = TypeVar("T")


def run(*arguments: str | Path) -> Result:
    """Return what a command printed, and its exit code."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def check_refusal(result: Result, *words: str) -> None:
    """Check that a command ended with 2, and with nothing but `words` in its complaint."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def printed(data_dir: Path, *arguments: str) -> Any:
    """Return the JSON that a command prints, and nothing else."""
    result = run(*arguments, "--data-dir", data_dir, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def new_key(data_dir: Path, *arguments: str) -> dict[str, Any]:
    """Return the key that `keys create` made."""
    made: dict[str, Any] = printed(data_dir, "keys", "create", *arguments)
    return made


def at_book(data_dir: Path, work: Callable[[Book], Awaitable[T]]) -> T:
    """Return what `work` makes of the open book."""

    async def opened() -> T:
        book = await Book.open(data_dir)
        try:
            return await work(book)
        finally:
            await book.aclose()

    return asyncio.run(opened())
