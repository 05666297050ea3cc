"""What is made of other files is as they are now, and the tables say something of each thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.render import rendered

TABLES = {path: text for path, text in rendered().items() if path.suffix == ".md"}


@pytest.mark.parametrize("path", rendered(), ids=lambda path: path.name)
def test_what_is_made_of_other_files_is_as_they_are_now(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == rendered()[path], "run `make docs`"


@pytest.mark.parametrize("table", TABLES.values(), ids=[path.name for path in TABLES])
def test_nothing_is_left_without_a_word(table: str) -> None:
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if not row.split(" | ")[-1].strip("| ")] == []
