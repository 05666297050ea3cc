from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.book import Book, BookUnavailable, Changes, FoundKey, KeyOptions
from gateway.keyring import Keyring
from gateway.keys import Caller, InvalidKey, NewKey, digest, first_run, generate
from gateway.limits import Limits
from tests.gateway.fake_book import PEPPER, Clock, FakeBook
from tests.own_loop import in_own_loop
from tests.patience import within

pytestmark = pytest.mark.anyio

KEY = generate()
OTHER = generate()


async def keyring(book: FakeBook, **options: Any) -> Keyring:
    """Return a keyring that has heard from the book."""
    clock = options.pop("clock", None) or Clock()
    ring = Keyring(book, PEPPER, clock=clock, now=clock, **options)
    if not book.broken:
        await ring.refresh()
    return ring


async def refusal(ring: Keyring, text: str | None) -> str:
    with pytest.raises(InvalidKey) as caught:
        await ring.authenticate(text)
    return caught.value.reason


def in_memory(ring: Keyring, keys: Sequence[NewKey]) -> list[bool]:
    return [ring.cached(key.text) is not None for key in keys]


async def test_known_key_is_answered_from_memory() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)
    assert ring.cached(KEY.text) is None

    caller = await ring.authenticate(KEY.text)

    assert caller.id == KEY.id
    assert ring.cached(KEY.text) is caller
    assert await ring.authenticate(KEY.text) is caller
    assert book.asked == 1


async def test_caller_has_what_the_book_says_of_key_and_team() -> None:
    book = FakeBook()
    own, shared = Limits(rpm=5), Limits(usd_per_month=Decimal(9))
    book.add([KEY], team="red", models=("gpt-*",), limits=own, team_limits=shared)

    caller = await (await keyring(book)).authenticate(KEY.text)

    assert caller == Caller(
        id=KEY.id, name=KEY.id, team="red", models=("gpt-*",), limits=own, team_limits=shared
    )
    assert caller.account.scopes == (f"key:{KEY.id}", "team:red")
    assert [caps.rpm for caps in caller.account.caps] == [5, -1]
    assert caller.account.caps[1].nano_usd == 9_000_000_000


async def test_calls_at_the_same_time_share_one_lookup() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)

    callers = await asyncio.gather(*(ring.authenticate(KEY.text) for _ in range(50)))

    assert {caller.id for caller in callers} == {KEY.id}
    assert book.asked == 1


async def test_lookup_survives_the_caller_who_began_it() -> None:
    book = FakeBook(KEY)
    book.answering.clear()
    ring = await keyring(book)
    first = asyncio.create_task(ring.authenticate(KEY.text))
    second = asyncio.create_task(ring.authenticate(KEY.text))
    await book.asking.wait()

    first.cancel()
    await asyncio.wait([first])
    book.answering.set()

    assert (await second).id == KEY.id
    assert book.asked == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        ("sk-proj-abc", "malformed"),
        (KEY.text[:-1], "malformed"),
        (KEY.text[:-1] + ("A" if KEY.text[-1] != "A" else "B"), "malformed"),
        (OTHER.text[:-6] + KEY.text[-6:], "malformed"),
    ],
    ids=["none", "empty", "foreign", "short", "misspelt", "mixed"],
)
async def test_what_cannot_be_a_key_never_reaches_the_book(text: str | None, reason: str) -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)

    assert await refusal(ring, text) == reason
    assert ring.cached(text or "") is None
    assert book.asked == 0


async def test_unknown_key_is_refused_from_memory_for_two_seconds() -> None:
    book, clock = FakeBook(), Clock()
    ring = await keyring(book, clock=clock)

    assert await refusal(ring, KEY.text) == "unknown"
    clock.seconds += 1.9
    assert await refusal(ring, KEY.text) == "unknown"
    assert book.asked == 1

    clock.seconds += 0.1
    await refusal(ring, KEY.text)
    assert book.asked == 2


async def test_a_key_that_is_created_is_good_as_soon_as_the_book_tells() -> None:
    book = FakeBook()
    ring = await keyring(book)
    await refusal(ring, KEY.text)

    book.add([KEY])
    await ring.refresh()

    assert (await ring.authenticate(KEY.text)).id == KEY.id


async def test_a_key_that_is_revoked_is_refused_as_soon_as_the_book_tells() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)
    await ring.authenticate(KEY.text)

    book.change(KEY, revoked_at=2)
    assert ring.cached(KEY.text) is not None
    await ring.refresh()

    assert ring.cached(KEY.text) is None
    assert await refusal(ring, KEY.text) == "revoked"


async def test_new_limits_are_in_force_as_soon_as_the_book_tells() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)
    assert (await ring.authenticate(KEY.text)).account.is_unlimited

    book.change(KEY, limits=Limits(rpm=7))
    await ring.refresh()

    assert (await ring.authenticate(KEY.text)).account.caps[0].rpm == 7


async def test_one_change_leaves_ten_thousand_others_in_memory() -> None:
    made = [generate() for _ in range(10_000)]
    book = FakeBook(*made)
    book.most_changes = 20_000
    ring = await keyring(book)
    for key in made:
        await ring.authenticate(key.text)

    book.change(made[5_000], name="changed")
    await ring.refresh()

    assert in_memory(ring, made) == [True] * 5_000 + [False] + [True] * 4_999
    assert (await ring.authenticate(made[5_000].text)).name == "changed"
    assert book.asked == 10_001


async def test_more_changes_than_the_book_will_list_empty_the_memory() -> None:
    book = FakeBook(KEY, OTHER)
    ring = await keyring(book)
    await ring.authenticate(KEY.text)
    await refusal(ring, generate().text)

    book.most_changes = 0
    book.change(OTHER)
    await ring.refresh()

    assert in_memory(ring, [KEY]) == [False]


@pytest.mark.parametrize("most_changes", [1_000, 0], ids=["listed", "too many to list"])
async def test_an_answer_from_before_a_change_is_not_remembered(most_changes: int) -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)
    book.most_changes = most_changes
    book.answering.clear()
    early = asyncio.create_task(ring.authenticate(KEY.text))
    await book.asking.wait()

    book.change(KEY, revoked_at=2)
    await ring.refresh()
    late = asyncio.create_task(refusal(ring, KEY.text))
    await asyncio.sleep(0)
    book.answering.set()

    assert (await early).id == KEY.id
    assert ring.cached(KEY.text) is None
    assert await late == "revoked"
    assert await refusal(ring, KEY.text) == "revoked"
    assert book.asked == 2


async def test_a_refusal_from_before_a_change_is_not_remembered() -> None:
    book = FakeBook()
    ring = await keyring(book)
    book.answering.clear()
    early = asyncio.create_task(refusal(ring, KEY.text))
    await book.asking.wait()

    book.add([KEY])
    await ring.refresh()
    book.answering.set()

    assert await early == "unknown"
    assert (await ring.authenticate(KEY.text)).id == KEY.id


async def test_key_expires_at_once_even_in_memory() -> None:
    book, clock = FakeBook(KEY), Clock()
    book.change(KEY, expires_at=1_001)
    ring = await keyring(book, clock=clock)
    assert (await ring.authenticate(KEY.text)).expires_at == 1_001

    clock.seconds = 1_000.9
    assert ring.cached(KEY.text) is not None
    clock.seconds = 1_001.0

    assert ring.cached(KEY.text) is None
    assert await refusal(ring, KEY.text) == "expired"
    assert book.asked == 1


@pytest.mark.parametrize("expires_at", [None, 9_999])
async def test_a_text_that_was_rotated_out_ends_before_its_key(expires_at: int | None) -> None:
    old, new = KEY, generate(KEY.id)
    book, clock = FakeBook(), Clock()
    book.add([old], expires_at=expires_at, digest_expires_at=1_001)
    book.add([new], expires_at=expires_at)
    ring = await keyring(book, clock=clock)
    for key in (old, new):
        assert (await ring.authenticate(key.text)).id == KEY.id

    clock.seconds = 1_001.0

    assert await refusal(ring, old.text) == "expired"
    assert in_memory(ring, [old, new]) == [False, True]


async def test_memory_is_bounded_and_forgets_who_came_longest_ago() -> None:
    made = [generate() for _ in range(3)]
    ring = await keyring(FakeBook(*made), size=2)
    await ring.authenticate(made[0].text)
    await ring.authenticate(made[1].text)
    ring.cached(made[0].text)

    await ring.authenticate(made[2].text)

    assert in_memory(ring, made) == [True, False, True]


async def test_invented_keys_do_not_push_callers_out_of_memory() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book, size=2)
    await ring.authenticate(KEY.text)

    for _ in range(5):
        assert await refusal(ring, generate().text) == "unknown"

    assert ring.cached(KEY.text) is not None


async def test_refusals_in_memory_are_bounded() -> None:
    made = [generate() for _ in range(3)]
    book = FakeBook()
    ring = await keyring(book, size=2)
    for key in made:
        await refusal(ring, key.text)
    assert book.asked == 3

    for key in reversed(made):
        await refusal(ring, key.text)

    assert book.asked == 4


async def test_callers_in_memory_outlive_the_book_by_five_minutes() -> None:
    book, clock = FakeBook(KEY), Clock()
    ring = await keyring(book, clock=clock)
    await ring.authenticate(KEY.text)

    book.broken = True
    clock.seconds += 299.9
    with pytest.raises(BookUnavailable):
        await ring.refresh()
    assert ring.cached(KEY.text) is not None
    assert (await ring.authenticate(KEY.text)).id == KEY.id

    clock.seconds += 0.1
    assert ring.cached(KEY.text) is None
    with pytest.raises(BookUnavailable):
        await ring.authenticate(KEY.text)


async def test_every_word_from_the_book_gives_five_minutes_more() -> None:
    book, clock = FakeBook(KEY), Clock()
    ring = await keyring(book, clock=clock)
    await ring.authenticate(KEY.text)
    for _ in range(3):
        clock.seconds += 299.0
        await ring.refresh()

    assert ring.cached(KEY.text) is not None
    assert book.asked == 1


async def test_a_stranger_cannot_be_told_from_a_caller_while_the_book_is_gone() -> None:
    book = FakeBook(KEY)
    ring = await keyring(book)
    book.broken = True
    with pytest.raises(BookUnavailable):
        await ring.authenticate(KEY.text)

    book.broken = False

    assert (await ring.authenticate(KEY.text)).id == KEY.id


async def test_a_book_that_hangs_is_not_waited_for() -> None:
    book = FakeBook(KEY)
    book.answering.clear()
    ring = await keyring(book, lookup_seconds=0.01)

    with pytest.raises(BookUnavailable, match=r"no answer within 0\.01 s"):
        await ring.authenticate(KEY.text)

    book.answering.set()
    assert (await ring.authenticate(KEY.text)).id == KEY.id


async def test_what_changed_while_the_book_was_gone_is_seen_when_it_is_back() -> None:
    book, clock = FakeBook(KEY, OTHER), Clock()
    ring = await keyring(book, clock=clock)
    for key in (KEY, OTHER):
        await ring.authenticate(key.text)
    clock.seconds += 1_000

    book.change(KEY, revoked_at=2)
    await ring.refresh()

    assert in_memory(ring, [KEY, OTHER]) == [False, True]
    assert await refusal(ring, KEY.text) == "revoked"


async def test_a_keyring_that_does_not_follow_its_book_remembers_no_caller() -> None:
    book = FakeBook(KEY)
    ring = Keyring(book, PEPPER)
    for asked in (1, 2):
        assert (await ring.authenticate(KEY.text)).id == KEY.id
        assert ring.cached(KEY.text) is None
        assert book.asked == asked


async def test_following_goes_on_after_an_outage_and_tells_of_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = FakeBook(KEY)
    book.broken = True
    async with Keyring(book, PEPPER, poll_seconds=0.001) as ring:
        for _ in range(3):
            book.polled.clear()
            await book.polled.wait()
        assert [record.message for record in caplog.records] == [
            "the book does not tell what changed: broken"
        ]
        book.broken = False
        await ring.authenticate(KEY.text)
        book.change(KEY, revoked_at=2)
        for _ in range(2):
            book.polled.clear()
            await book.polled.wait()
        assert await refusal(ring, KEY.text) == "revoked"


@in_own_loop
async def test_following_ends_with_the_block() -> None:
    book = FakeBook()
    before = asyncio.all_tasks()
    async with Keyring(book, PEPPER):
        await book.polled.wait()
    assert asyncio.all_tasks() == before


class Watched:
    """A real book; `hears_of` waits until it has told of all changes up to a revision."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._revision = -1
        self._polled = asyncio.Event()

    async def hears_of(self, revision: int) -> None:
        while self._revision < revision:
            self._polled.clear()
            await self._polled.wait()

    async def find_key(self, digest: bytes) -> FoundKey | None:
        return await self._book.find_key(digest)

    async def changes_since(self, revision: int) -> Changes:
        changes = await self._book.changes_since(revision)
        self._revision = changes.revision
        self._polled.set()
        return changes


async def test_what_another_process_writes_is_known_within_a_second(tmp_path: Path) -> None:
    book, elsewhere = await Book.open(tmp_path), await Book.open(tmp_path)
    made = await first_run(elsewhere, PEPPER)
    assert made is not None
    source = Watched(book)
    async with Keyring(source, PEPPER) as ring:
        await source.hears_of((await elsewhere.changes_since(0)).revision)
        assert (await ring.authenticate(made.key.text)).name == "default"
        assert await refusal(ring, KEY.text) == "unknown"
        assert ring.cached(made.key.text) is not None

        await elsewhere.revoke_key(made.key.id)
        options = KeyOptions(name="alice", limits=Limits(rpm=3))
        await elsewhere.create_key(KEY.id, digest(KEY.text, PEPPER), options=options)
        async with within(1):
            await source.hears_of((await elsewhere.changes_since(0)).revision)

        assert ring.cached(made.key.text) is None
        assert await refusal(ring, made.key.text) == "revoked"
        assert (await ring.authenticate(KEY.text)).limits == Limits(rpm=3)
    for one in (book, elsewhere):
        await one.aclose()


async def test_rotation_keeps_the_old_text_for_its_grace_through_the_real_book(
    tmp_path: Path,
) -> None:
    book, clock = await Book.open(tmp_path, clock=lambda: 1_000), Clock()
    await book.create_key(KEY.id, digest(KEY.text, PEPPER), options=KeyOptions(name="alice"))
    ring = Keyring(book, PEPPER, clock=clock, now=clock)
    await ring.refresh()
    await ring.authenticate(KEY.text)
    new = generate(KEY.id)

    await book.rotate_key(KEY.id, digest(new.text, PEPPER), grace_seconds=60, actor="test")
    await ring.refresh()

    for key in (KEY, new):
        assert (await ring.authenticate(key.text)).id == KEY.id
    clock.seconds += 60
    assert await refusal(ring, KEY.text) == "expired"
    assert (await ring.authenticate(new.text)).id == KEY.id
    await book.aclose()
