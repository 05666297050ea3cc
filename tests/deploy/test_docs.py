"""The tables in `deploy/docs` are those of the code, and say something of each thing."""

from __future__ import annotations

import pytest

from deploy.docs.generate import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str):
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_left_without_a_word(name: str):
    rows = [line for line in PAGES[name]().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if not row.split(" | ")[-1].strip("| ")] == []
