"""What an operator may say, and what comes of it: the laws that both faces share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.administration import Administration
from gateway.book import Book, UnknownTeam
from gateway.fields import InvalidField, check_globs, dollars, model_names
from gateway.keys import digest
from gateway.limits import NANO_USD
from gateway.times import iso, iso_ms, parse_duration, parse_moment, parse_time
from gateway.usage_report import format_usd
from tests.gateway.running import settings

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    book = await Book.open(tmp_path)
    yield book
    await book.aclose()


def administration(book: Book) -> Administration:
    return Administration(
        book,
        lambda text: digest(text, b"pepper"),
        models=model_names(settings().models),
        actor="me",
        now=NOW.timestamp,
    )


async def test_a_team_that_is_new_is_begun_only_if_asked(book: Book) -> None:
    work = administration(book)
    with pytest.raises(InvalidField, match="no team has the name 'red'") as caught:
        await work.create_key({"name": "a", "team": "red"})
    assert (caught.value.field, caught.value.code) == ("team", "team_not_found")
    with pytest.raises(UnknownTeam):
        await book.show_team("red")

    await work.create_key({"name": "a", "team": "red"}, make_team=True)

    assert (await book.show_team("red")).limits.given() == {}


async def test_every_change_is_signed(book: Book) -> None:
    work = administration(book)
    key_id = (await work.create_key({"name": "a", "team": "red"}, make_team=True))["id"]
    await work.update_key(key_id, {"name": "b"})
    await work.rotate_key(key_id, grace_seconds=0)
    await work.revoke_key(key_id)
    await work.create_team({"name": "blue"})
    await work.update_team("blue", {"limits": {"rpm": 1}})
    changes = await book.audit()
    assert len(changes) == 7
    assert {change.actor for change in changes} == {"me"}


async def test_names_lose_the_space_around_them(book: Book) -> None:
    made = await administration(book).create_key({"name": " a b ", "team": " r "}, make_team=True)
    assert (made["name"], made["team"]) == ("a b", "r")


async def test_a_key_that_ends_now_has_ended(book: Book) -> None:
    work = administration(book)
    with pytest.raises(InvalidField, match="to come"):
        await work.create_key({"name": "a", "expires_at": NOW.isoformat()})
    later = NOW + timedelta(seconds=1)
    made = await work.create_key({"name": "a", "expires_at": later.isoformat()})
    assert (made["state"], made["expires_at"]) == ("active", "2026-11-22T12:00:01Z")
    late = Administration(book, lambda _: b"", models=(), actor="me", now=later.timestamp)
    assert late.describe_key(await book.show_key(made["id"]))["state"] == "expired"


async def test_the_longest_of_everything_is_taken(book: Book) -> None:
    work = administration(book)
    fields = {
        "name": "x" * 200,
        "team": "y" * 200,
        "models": ["*"] * 100,
        "metadata": {"a": "ä" * 8_187 + "."},
        "limits": {"rpm": 10**12, "tpm": 0, "usd_per_month": "1000000"},
        "expires_at": "9999-12-31T23:59:59Z",
    }
    made = await work.create_key(fields, make_team=True)
    stored = work.describe_key(await book.show_key(made["id"]))
    assert {name: stored[name] for name in fields} == fields | {"models": ("*",) * 100}
    with pytest.raises(InvalidField, match="at most 16384 bytes, got 16385"):
        await work.create_key({"name": "a", "metadata": {"a": "ä" * 8_187 + ".."}})


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("hf/*", True),
        ("alias-hf", True),
        ("*", True),
        ("h?/mode[l]", True),
        ("HF/*", False),
        ("hf", False),
        ("[", False),
        ("*" * 150 + "!", False),
    ],
)
def test_a_glob_must_match_an_id_or_an_alias(glob: str, matches: bool) -> None:
    check = check_globs(model_names(settings().models))
    if matches:
        assert check("models", [glob]) == (glob,)
    else:
        with pytest.raises(InvalidField, match="matches no model"):
            check("models", [glob])


@pytest.mark.parametrize("glob", ["meta-llama/*", "org/llm:groq", "*/*"])
def test_a_glob_may_be_of_the_hubs_models_where_they_are_there(glob: str) -> None:
    check = check_globs(model_names(settings().models), with_hub=True)
    assert check("models", [glob]) == (glob,)


@pytest.mark.parametrize("glob", ["gpt-4o", "org/" + "a" * 500])
def test_beside_the_hubs_models_a_glob_must_still_match_something(glob: str) -> None:
    with pytest.raises(InvalidField):
        check_globs(model_names(settings().models), with_hub=True)("models", [glob])


def test_of_many_models_some_are_named() -> None:
    with pytest.raises(InvalidField) as caught:
        check_globs([f"m{number}" for number in range(1000)])("models", ["x"])
    assert caught.value.problem.endswith("m18, m19 and 980 more")
    with pytest.raises(InvalidField, match="the models are none"):
        check_globs(())("models", ["*"])


@given(st.integers(0, 10**9), st.sampled_from("smhdw"))
def test_a_duration_is_a_number_of_units(count: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    if count < 10**9:
        assert parse_duration(f"{count}{unit}") == count * seconds
    else:
        with pytest.raises(ValueError, match="as in 24h"):
            parse_duration(f"{count}{unit}")


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "1 h", "1H", "1h30m", "٣h", "1y"])
def test_no_other_text_is_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="as in 24h"):
        parse_duration(text)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        moment = parse_moment(text, NOW)
    except ValueError:
        return
    assert (
        datetime(1970, 1, 1, tzinfo=UTC) <= moment <= datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22", "2026-11-22T00:00:00.000Z"),
        ("2026-11-22T10:30", "2026-11-22T10:30:00.000Z"),
        ("2026-11-22T10:30:00.5+02:00", "2026-11-22T08:30:00.500Z"),
        ("7d", "2026-11-15T12:00:00.000Z"),
        ("90s", "2026-11-22T11:58:30.000Z"),
        ("999999999w", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_a_moment_is_a_time_or_so_long_ago(text: str, moment: str) -> None:
    assert iso_ms(round(parse_moment(text, NOW).timestamp() * 1000)) == moment


@given(st.integers(0, 253_402_300_798), st.integers(0, 999))
def test_times_are_read_as_they_are_written(seconds: int, milliseconds: int) -> None:
    assert parse_time(iso(seconds)).timestamp() == seconds
    written = parse_time(iso_ms(seconds * 1000 + milliseconds))
    assert written - parse_time(iso(seconds)) == timedelta(milliseconds=milliseconds)


@given(st.integers(0, 10**30))
def test_money_is_shown_exactly(nano_usd: int) -> None:
    text = format_usd(nano_usd)
    whole, _, rest = text.partition(".")
    assert int(whole) * NANO_USD + int(rest.ljust(9, "0")) == nano_usd
    assert len(rest) == 2 or (2 < len(rest) <= 9 and not rest.endswith("0"))


@given(st.integers(0, 10**15))
def test_money_is_read_as_it_is_shown(nano_usd: int) -> None:
    assert dollars(format_usd(nano_usd)) * NANO_USD == nano_usd


@given(st.decimals(0, 1_000_000, places=6, allow_nan=False))
def test_a_number_of_dollars_is_the_one_that_was_written(amount: Decimal) -> None:
    assert dollars(float(amount)) == amount
