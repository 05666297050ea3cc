import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from gateway.book import (
    Book,
    BookUnavailable,
    KeyOptions,
    TeamExists,
    UnknownKey,
    UnknownTeam,
)
from gateway.limits import Limits
from tests.gateway.conftest import Clock

pytestmark = pytest.mark.anyio

DIGEST = b"d" * 32
ALICE = KeyOptions(name="alice")


async def make(book: Book, *ids: str, options: KeyOptions = ALICE) -> None:
    for key_id in ids:
        await book.create_key(key_id, key_id.encode(), options=options, make_team=True)


async def test_key_comes_back_as_it_was_created(book: Book, clock: Clock) -> None:
    limits = Limits(rpm=60, tokens_per_day=0, usd_per_month=Decimal("0.10"))
    options = KeyOptions(
        name="alice",
        team="red",
        models=("gpt-*", "meta-llama/*"),
        limits=limits,
        metadata={"note": "für später", "odd": "\x00"},
        expires_at=2_000_000_000,
    )
    created = await book.create_key("abc", DIGEST, options=options, make_team=True)

    key = await book.find_key(DIGEST)

    assert key is not None
    assert (key.id, key.name, key.team) == ("abc", "alice", "red")
    assert key.models == ("gpt-*", "meta-llama/*")
    assert key.limits == limits and str(key.limits.usd_per_month) == "0.10"
    assert key.metadata == {"note": "für später", "odd": "\x00"}
    assert (key.created_at, key.expires_at, key.revoked_at) == (clock.now, 2_000_000_000, None)
    assert await book.show_key("abc") == created


async def test_unknown_digest_finds_nothing(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    assert await book.find_key(b"x" * 32) is None


async def test_keys_are_listed_oldest_first_also_within_a_second(book: Book) -> None:
    await make(book, "c", "a", "b")
    await book.update_key("c", {"name": "bob"}, actor="ann")

    assert [key.id for key in await book.list_keys()] == ["c", "a", "b"]


async def test_pages_of_keys_leave_none_out(book: Book) -> None:
    await make(book, *"hgfedc")
    await make(book, *"ab", options=KeyOptions(name="bob", team="red"))

    pages, after = [], None
    while page := [key.id for key in await book.list_keys(after=after, limit=3)]:
        pages.append("".join(page))
        after = page[-1]

    assert pages == ["hgf", "edc", "ab"]
    assert [key.id for key in await book.list_keys(team="red", after="a")] == ["b"]
    with pytest.raises(UnknownKey, match="'nobody'"):
        await book.list_keys(after="nobody")


async def test_key_is_revoked_once_and_stays_in_the_book(book: Book, clock: Clock) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    assert await book.revoke_key("abc") is True
    clock.now += 1
    assert await book.revoke_key("abc") is False

    key = await book.find_key(DIGEST)
    assert key is not None and key.revoked_at == clock.now - 1
    assert [key.id for key in await book.list_keys()] == ["abc"]
    with pytest.raises(UnknownKey, match="'nobody'"):
        await book.revoke_key("nobody")


async def test_a_key_id_is_given_once(book: Book) -> None:
    await book.create_key("abc", DIGEST, options=ALICE)

    with pytest.raises(BookUnavailable, match=r"keys[._]"):
        await book.create_key("abc", b"other", options=KeyOptions(name="bob"))

    assert [key.name for key in await book.list_keys()] == ["alice"]
    assert await book.find_key(b"other") is None


async def test_changes_are_laid_over_what_a_key_had(book: Book) -> None:
    limits = Limits(rpm=60, tpm=1000, usd_per_month=Decimal("1.50"))
    await make(book, "abc", options=KeyOptions(name="alice", models=("a*",), limits=limits))

    changes = {"name": "bob", "models": None, "limits": {"rpm": 5, "tpm": None}}
    changed = await book.update_key("abc", changes, actor="ann")

    assert (changed.name, changed.models) == ("bob", None)
    assert changed.limits == Limits(rpm=5, usd_per_month=Decimal("1.50"))
    assert await book.show_key("abc") == changed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"team": "red"}, "team"),
        ({"limits": {"per_hour": 5}}, "per_hour"),
        ({"limits": {"rpm": -5}}, "rpm"),
        ({"name": "bob", "limits": {"rpm_burst": 5}}, "rpm_burst"),
    ],
)
async def test_change_that_cannot_be_made_is_named_and_changes_nothing(
    book: Book, changes: dict[str, object], named: str
) -> None:
    await make(book, "abc")

    with pytest.raises(ValueError, match=named):
        await book.update_key("abc", changes, actor="ann")

    assert await book.show_key("abc") == (await book.list_keys())[0]
    assert (await book.show_key("abc")).name == "alice"
    assert [record.action for record in await book.audit()] == ["key.create"]


async def test_rotated_key_is_found_by_both_digests_until_the_grace_is_over(
    book: Book, clock: Clock
) -> None:
    await book.create_key("abc", b"old", options=ALICE)

    await book.rotate_key("abc", b"new", grace_seconds=60, actor="ann")

    old, new = await book.find_key(b"old"), await book.find_key(b"new")
    assert old is not None and new is not None
    assert (old.id, old.digest_expires_at) == ("abc", clock.now + 60)
    assert (new.id, new.digest_expires_at) == ("abc", None)


async def test_rotation_without_grace_ends_all_earlier_digests(book: Book, clock: Clock) -> None:
    await book.create_key("abc", b"1", options=ALICE)
    await book.rotate_key("abc", b"2", grace_seconds=60, actor="ann")

    await book.rotate_key("abc", b"3", grace_seconds=0, actor="ann")

    found = [await book.find_key(digest) for digest in (b"1", b"2", b"3")]
    ends = [key.digest_expires_at for key in found if key is not None]
    assert ends == [clock.now, clock.now, None]


async def test_rotation_never_makes_an_old_digest_good_for_longer(book: Book, clock: Clock) -> None:
    await book.create_key("abc", b"1", options=ALICE)
    await book.rotate_key("abc", b"2", grace_seconds=60, actor="ann")

    await book.rotate_key("abc", b"3", grace_seconds=3600, actor="ann")

    old = await book.find_key(b"1")
    assert old is not None and old.digest_expires_at == clock.now + 60


async def test_digests_that_ran_out_long_ago_are_forgotten(book: Book, clock: Clock) -> None:
    await book.create_key("abc", b"1", options=ALICE)
    await book.rotate_key("abc", b"2", grace_seconds=0, actor="ann")
    clock.now += 100_000

    await book.rotate_key("abc", b"3", grace_seconds=0, actor="ann")

    assert await book.find_key(b"1") is None
    assert await book.find_key(b"2") is not None


async def test_key_is_found_with_the_limits_of_its_team(book: Book) -> None:
    await book.create_team("red", limits=Limits(rpm=7), actor="ann")
    await book.create_key("abc", DIGEST, options=KeyOptions(name="alice", team="red"))
    await book.create_key("solo", b"solo", options=ALICE)

    found, solo = await book.find_key(DIGEST), await book.find_key(b"solo")

    assert found is not None and found.team_limits == Limits(rpm=7)
    assert solo is not None and solo.team_limits is None


async def test_key_of_an_unknown_team_is_refused_unless_the_team_is_to_be_made(book: Book) -> None:
    options = KeyOptions(name="alice", team="red")

    with pytest.raises(UnknownTeam, match="'red'"):
        await book.create_key("abc", DIGEST, options=options)
    assert await book.list_keys() == []

    await book.create_key("abc", DIGEST, options=options, make_team=True)
    assert (await book.show_team("red")).limits == Limits()


async def test_teams_are_created_changed_and_listed(book: Book, clock: Clock) -> None:
    await book.create_team("red", limits=Limits(rpm=7), metadata={"floor": 3}, actor="ann")
    await book.create_team("blue", limits=Limits(), actor="ann")

    changed = await book.update_team("red", {"limits": {"tpm": 9}}, actor="ann")

    assert changed.limits == Limits(rpm=7, tpm=9)
    assert (changed.metadata, changed.created_at) == ({"floor": 3}, clock.now)
    assert await book.show_team("red") == changed
    assert [team.name for team in await book.list_teams()] == ["blue", "red"]
    with pytest.raises(TeamExists, match="'red'"):
        await book.create_team("red", limits=Limits(), actor="ann")
    with pytest.raises(UnknownTeam, match="'green'"):
        await book.update_team("green", {}, actor="ann")


async def test_every_change_is_in_the_audit_with_its_author(book: Book, clock: Clock) -> None:
    options = KeyOptions(name="alice", team="red", limits=Limits(usd_per_month=Decimal("1.50")))
    await book.create_key("abc", b"1", options=options, actor="ann", make_team=True)
    await book.update_team("red", {"limits": {"rpm": 9}}, actor="bob")
    await book.update_key("abc", {"name": "carol"}, actor="bob")
    await book.rotate_key("abc", b"2", grace_seconds=60, actor="bob")
    await book.revoke_key("abc", actor="dan")
    await book.revoke_key("abc", actor="eve")

    newest_first = await book.audit()

    assert [(one.actor, one.action, one.subject) for one in reversed(newest_first)] == [
        ("ann", "team.create", "red"),
        ("ann", "key.create", "abc"),
        ("bob", "team.update", "red"),
        ("bob", "key.update", "abc"),
        ("bob", "key.rotate", "abc"),
        ("dan", "key.revoke", "abc"),
    ]
    revoked, rotated, renamed, raised, created, made = newest_first
    assert made.before is None and made.after is not None and made.after["name"] == "red"
    assert created.after is not None and created.after["limits"] == {"usd_per_month": "1.50"}
    assert raised.before is not None and raised.before["limits"] == {}
    assert raised.after is not None and raised.after["limits"] == {"rpm": 9}
    assert renamed.before is not None and renamed.before["name"] == "alice"
    assert renamed.after is not None and renamed.after["name"] == "carol"
    assert rotated.after is not None and rotated.after["old_key_expires_at"] == clock.now + 60
    assert revoked.after is not None and revoked.after["revoked_at"] == clock.now


async def test_audit_is_read_in_pages_and_by_subject(book: Book) -> None:
    await make(book, "a", "b", "c")
    await book.revoke_key("a")

    newest = await book.audit(limit=2)
    rest = await book.audit(after=newest[-1].id)

    assert [one.subject for one in (*newest, *rest)] == ["a", "c", "b", "a"]
    assert [one.action for one in await book.audit(subject="a")] == ["key.revoke", "key.create"]


async def test_change_that_fails_leaves_no_trace_in_the_audit(book: Book) -> None:
    await make(book, "abc")
    before = await book.changes_since(0)

    with pytest.raises(BookUnavailable):
        await book.create_key(
            "abc", b"other", options=KeyOptions(name="bob", team="red"), make_team=True
        )

    assert [one.action for one in await book.audit()] == ["key.create"]
    assert await book.list_teams() == []
    assert await book.changes_since(0) == before


async def test_changes_name_the_digests_of_changed_new_and_team_keys(book: Book) -> None:
    red = KeyOptions(name="alice", team="red")
    await make(book, "r1", "r2", options=red)
    await make(book, "solo")
    seen = (await book.changes_since(0)).revision
    assert await book.changes_since(seen) == (await book.changes_since(seen))
    assert (await book.changes_since(seen)).digests == []

    await book.update_team("red", {"limits": {"rpm": 1}}, actor="ann")
    by_team = await book.changes_since(seen)
    await book.rotate_key("solo", b"new", grace_seconds=0, actor="ann")
    by_rotation = await book.changes_since(by_team.revision)
    await make(book, "fresh")
    by_creation = await book.changes_since(by_rotation.revision)

    assert set(by_team.digests or ()) == {b"r1", b"r2"}
    assert set(by_rotation.digests or ()) == {b"solo", b"new"}
    assert by_creation.digests == [b"fresh"]
    assert seen < by_team.revision < by_rotation.revision < by_creation.revision


async def test_more_changes_than_can_be_told_drop_everything(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.book.changes.MOST_DIGESTS", 2)
    await make(book, "a", "b")
    assert len((await book.changes_since(0)).digests or ()) == 2

    await make(book, "c")

    changes = await book.changes_since(0)
    assert changes.digests is None and changes.revision == 3


async def test_book_put_back_to_an_older_state_drops_everything(book: Book) -> None:
    await make(book, "a")

    changes = await book.changes_since(99)

    assert (changes.revision, changes.digests) == (1, None)


async def test_revisions_become_visible_in_order_under_many_writers(
    book: Book, book_url: str
) -> None:
    writers = [await Book.open(book_url) for _ in range(8)]
    writing = [
        asyncio.create_task(make(writer, *(f"{number}-{turn}" for turn in range(10))))
        for number, writer in enumerate(writers)
    ]
    told: set[bytes] = set()
    seen, is_last = 0, False
    while not is_last:
        is_last = all(task.done() for task in writing)
        changes = await book.changes_since(seen)
        assert changes.revision >= seen and changes.digests is not None
        told, seen = told.union(changes.digests), changes.revision

    assert told == {f"{number}-{turn}".encode() for number in range(8) for turn in range(10)}
    assert (await book.changes_since(0)).revision == 80
    for task, writer in zip(writing, writers, strict=True):
        await task
        await writer.aclose()


async def test_writers_of_one_key_do_not_undo_each_other(book: Book, book_url: str) -> None:
    await make(book, "abc")
    other = await Book.open(book_url)
    limits = ("rpm", "tpm", "concurrency", "requests_per_day", "tokens_per_day", "images_per_day")

    await asyncio.gather(
        *(
            (book, other)[index % 2].update_key("abc", {"limits": {name: 5}}, actor="ann")
            for index, name in enumerate(limits)
        )
    )

    assert (await book.show_key("abc")).limits.given() == dict.fromkeys(limits, 5)
    await other.aclose()


async def test_nothing_that_many_keys_make_slow_is_read_without_an_index(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    await make(book, "abc", options=KeyOptions(name="alice", team="red"))
    asked: list[tuple[str, Any]] = []

    @event.listens_for(book._session._engine, "before_cursor_execute")
    def note(*arguments: Any) -> None:
        asked.append(arguments[2:4])

    await book.find_key(b"abc")
    await book.list_keys(after="abc", limit=9)
    await book.list_keys(team="red", after="abc", limit=9)
    await book.update_key("abc", {"name": "bob"}, actor="ann")
    await book.rotate_key("abc", b"new", grace_seconds=0, actor="ann")
    await book.revoke_key("abc")
    await book.changes_since(0)
    await book.audit(subject="abc", after=9)

    event.remove(book._session._engine, "before_cursor_execute", note)
    scans = {}
    for statement, parameters in asked:
        if not statement.startswith(("BEGIN", "INSERT")):
            steps = await explain(book, statement, parameters)
            scans[statement] = [step for step in steps if step.startswith("SCAN")]
    assert {statement: found for statement, found in scans.items() if found} == {
        "SELECT revision.value \nFROM revision": ["SCAN revision"],
        "UPDATE revision SET value=(revision.value + ?) RETURNING value": ["SCAN revision"],
    }
    await book.aclose()


async def explain(book: Book, statement: str, parameters: Any) -> list[str]:
    """Return the steps of SQLite's plan."""
    plan = f"EXPLAIN QUERY PLAN {statement}"
    rows = await book._read(lambda db: db.exec_driver_sql(plan, parameters).all())
    return [row[3] for row in rows]
