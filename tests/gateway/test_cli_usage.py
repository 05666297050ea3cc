"""`dragoman usage`: the ledger as a table, CSV and JSON, and the proof that it agrees."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.ledger import Entry
from gateway.reconcile import Difference
from tests.gateway.admin_app import entry, fill
from tests.gateway.dragoman import at_book, check_refusal, new_key, printed, run

DRAGOMAN = Path(sys.executable).with_name("dragoman")


def keep(data_dir: Path, *entries: Entry) -> None:
    at_book(data_dir, lambda book: book.add_entries(entries))


def test_the_table_shows_money_with_the_digits_that_it_has(tmp_path: Path) -> None:
    amounts = [1, 1_500_000_000, 9_007_199_254_740_993, 0]
    keep(tmp_path, *(entry(number, nano_usd=nano) for number, nano in enumerate(amounts)))
    heads, *rows = run("usage", "--data-dir", tmp_path).stdout.splitlines()
    assert heads.split()[:6] == ["AT", "KEY", "TEAM", "MODEL", "TASK", "STATUS"]
    assert [row.split()[-1] for row in rows] == [
        "0.000000001",
        "1.50",
        "9007199.254740993",
        "0.00",
    ]
    assert rows[0].split()[:6] == ["2026-01-01T12:00:00.000Z", "k", "-", "m", "chat", "ok"]


def test_sums_are_exact(tmp_path: Path) -> None:
    keep(tmp_path, *(entry(number, nano_usd=100_000_000_000_000_001) for number in range(9)))
    (total,) = printed(tmp_path, "usage", "--by", "key")
    assert (total["key"], total["requests"], total["input_tokens"]) == ("k", 9, 27)
    assert (total["nano_usd"], total["usd"]) == (900_000_000_000_000_009, "900000000.000000009")


def test_sums_are_by_the_columns_in_their_order(tmp_path: Path) -> None:
    keep(tmp_path, entry(0, model="a"), entry(1, model="b"), entry(86_400, model="b"))
    table = run("usage", "--by", "day,model", "--data-dir", tmp_path).stdout
    heads, *rows = [line.split() for line in table.splitlines()]
    assert heads[:3] == ["DAY", "MODEL", "REQUESTS"]
    assert [row[:3] for row in rows] == [
        ["2026-01-01", "a", "1"],
        ["2026-01-01", "b", "1"],
        ["2026-01-02", "b", "1"],
    ]


def test_csv_and_json_have_the_same_rows(tmp_path: Path) -> None:
    keep(tmp_path, entry(1), entry(2, team="red", first_token_ms=5))
    records = printed(tmp_path, "usage")
    assert json.loads(run("usage", "--format", "json", "--data-dir", tmp_path).stdout) == records
    rows = csv.DictReader(
        io.StringIO(run("usage", "--format", "csv", "--data-dir", tmp_path).stdout)
    )
    assert [list(row) for row in rows] == [list(record) for record in records]
    assert [record["first_token_ms"] for record in records] == [None, 5]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ("--team red", [2]),
        ("--model local-chat", [3]),
        ("--model HuggingFaceTB/SmolLM2-135M-Instruct", [3]),
        ("--since 2026-01-01T12:00:02", [2, 3]),
        ("--until 2026-01-01T12:00:02", [0, 1]),
        ("--since 36500d --until 2026-01-01T12:00:01Z", [0]),
        ("--since 1h", []),
    ],
)
def test_usage_is_filtered(tmp_path: Path, arguments: str, numbers: list[int]) -> None:
    key_id = new_key(tmp_path, "--name", "a", "--team", "red")["id"]
    local = entry(3, model="HuggingFaceTB/SmolLM2-135M-Instruct")
    keep(tmp_path, entry(0), entry(1, key_id=key_id), entry(2, team="red"), local)
    found = printed(tmp_path, "usage", *arguments.split())
    assert [one["request_id"] for one in found] == [f"r{number:07}" for number in numbers]
    assert len(printed(tmp_path, "usage", "--key", key_id)) == 1


def test_a_time_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    result = run("usage", "--since", "1d", "--until", "2d", "--data-dir", tmp_path)
    check_refusal(result, "--until")


def test_who_reads_only_the_beginning_ends_the_report_in_silence(tmp_path: Path) -> None:
    at_book(tmp_path, lambda book: fill(book, tmp_path, 20_000))
    command = [DRAGOMAN, "usage", "--json", "--data-dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b'[\n{"at":"2'
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.fixture
def reconciled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Difference]:
    """What the next proof finds."""
    found: list[Difference] = []

    async def reconcile(settings: Settings, data_dir: Path, book: object) -> list[Difference]:
        assert (settings.store.state, data_dir) == (None, tmp_path)
        return found

    monkeypatch.setattr("gateway.reconcile.reconcile", reconcile)
    return found


def test_agreement_is_told(tmp_path: Path, reconciled: list[Difference]) -> None:
    result = run("usage", "--reconcile", "--data-dir", tmp_path)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert "agree" in result.stdout
    assert printed(tmp_path, "usage", "--reconcile") == []


def test_each_difference_is_a_line_and_exit_1(tmp_path: Path, reconciled: list[Difference]) -> None:
    reconciled.append(Difference("key:a", "d1", 3, 2))
    reconciled.append(Difference("team:b", "m1", 0, 7))
    result = run("usage", "--reconcile", "--data-dir", tmp_path)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first == "key:a: d1: the counter says 3, the ledger 2"
    assert second.startswith("team:b: m1: ")
    as_json = run("usage", "--reconcile", "--json", "--data-dir", tmp_path)
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)[0] == {
        "scope": "key:a",
        "meter": "d1",
        "counter": 3,
        "ledger": 2,
    }


def test_counters_are_rebuilt_before_they_are_compared(
    tmp_path: Path, reconciled: list[Difference], monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciled.append(Difference("key:a", "d1", 3, 2))

    async def rebuild(settings: Settings, data_dir: Path, book: object) -> None:
        reconciled.clear()

    monkeypatch.setattr("gateway.reconcile.rebuild", rebuild)
    assert "agree" in run("usage", "--rebuild", "--data-dir", tmp_path).stdout


def test_rebuilding_is_about_everything(tmp_path: Path) -> None:
    check_refusal(run("usage", "--rebuild", "--by", "key", "--data-dir", tmp_path), "--by")
