import asyncio
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keys
from gateway.book import Book, BookUnavailable, KeyOptions, StoredKey

pytestmark = pytest.mark.anyio

PEPPER = b"p" * 32
KEY = keys.generate()
OTHER = keys.generate()


class Clock:
    """A time that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class FakeBook:
    """Keys by their text; counts the questions, and answers once `answering` is set."""

    def __init__(self, stored: Mapping[str, StoredKey]) -> None:
        self.stored = {keys.digest(text, PEPPER): key for text, key in stored.items()}
        self.asked = 0
        self.asking = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.broken = False

    async def find_key(self, digest: bytes) -> StoredKey | None:
        self.asked += 1
        self.asking.set()
        await self.answering.wait()
        if self.broken:
            raise BookUnavailable("broken")
        return self.stored.get(digest)


def alice(*, expires_at: int | None = None, revoked_at: int | None = None) -> StoredKey:
    return StoredKey(
        id=KEY.id, name="alice", created_at=1, expires_at=expires_at, revoked_at=revoked_at
    )


def keyring(book: FakeBook, *, clock: Clock | None = None, size: int = 100) -> keys.Keyring:
    clock = clock or Clock()
    return keys.Keyring(book.find_key, PEPPER, size=size, clock=clock, now=clock)


async def refusal(ring: keys.Keyring, text: str | None) -> str:
    with pytest.raises(keys.InvalidKey) as caught:
        await ring.authenticate(text)
    return caught.value.reason


def with_check(head: str) -> str:
    value, digits = zlib.crc32(head.encode()), ""
    while len(digits) < 6:
        value, digit = divmod(value, 62)
        digits = keys.BASE62[digit] + digits
    return head + digits


def test_key_is_prefix_id_secret_and_check() -> None:
    assert KEY.text == with_check(KEY.text[:-6])
    assert KEY.text.startswith(f"sk-dm_{KEY.id}") and len(KEY.id) == 8
    assert len(KEY.text) == 6 + 8 + 32 + 6
    assert keys.parse(KEY.text) == KEY.id


@pytest.mark.parametrize(
    "head", ["sk-gw_" + "A" * 40, "sk-dm_" + "A" * 39, "sk-dm_" + "-" * 40, "sk-dm_" + "é" * 40]
)
def test_right_check_does_not_make_up_for_a_wrong_form(head: str) -> None:
    assert keys.parse(with_check("sk-dm_" + "A" * 40)) == "A" * 8
    assert keys.parse(with_check(head)) is None


def test_small_check_is_padded_to_its_width() -> None:
    made = (keys.generate().text for _ in range(2_000))
    padded = next(text for text in made if zlib.crc32(text[:-6].encode()) < 62**5)

    assert padded[-6] == "0"
    assert keys.parse(padded) is not None


@given(st.integers(0, len(KEY.text) - 1), st.sampled_from(keys.BASE62 + "_-é\n "))
def test_any_other_character_anywhere_is_refused(position: int, character: str) -> None:
    text = KEY.text[:position] + character + KEY.text[position + 1 :]

    assert (keys.parse(text) is None) == (text != KEY.text)


@given(st.text())
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    assert keys.parse(text) is None
    assert keys.parse("sk-dm_" + text) is None


def test_admin_key_is_no_api_key() -> None:
    admin_key = keys.generate_admin()

    assert admin_key.startswith("sk-dm-admin_")
    assert keys.parse(admin_key) is None


def test_key_texts_stay_out_of_representations() -> None:
    made = keys.FirstRun(KEY, keys.generate_admin())

    assert KEY.text not in repr(made)
    assert made.admin_key not in repr(made)
    assert KEY.id in repr(made)


def test_digest_depends_on_key_and_pepper() -> None:
    digests = {keys.digest(text, pepper) for text in ("a", "b") for pepper in (b"1", b"2")}

    assert len(digests) == 4
    # RFC 4231 §4.3
    assert keys.digest("what do ya want for nothing?", b"Jefe").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def test_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    pepper = keys.load_pepper(data_dir, env={})

    assert len(pepper) == 32
    assert keys.load_pepper(data_dir, env={}) == pepper
    assert (data_dir / "pepper").stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in data_dir.iterdir()] == ["pepper"]


def test_starts_at_the_same_time_agree_on_one_pepper(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def load(_: int) -> bytes:
        together.wait()
        return keys.load_pepper(tmp_path, env={})

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(load, range(8)))) == 1


def test_pepper_from_the_environment_leaves_no_file(tmp_path: Path) -> None:
    assert keys.load_pepper(tmp_path, env={"DRAGOMAN_PEPPER": "sel"}) == b"sel"
    assert not (tmp_path / "pepper").exists()


def test_truncated_pepper_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"short")

    with pytest.raises(keys.BadPepper, match=r"pepper.*expected 32 bytes, got 5"):
        keys.load_pepper(tmp_path, env={})


@pytest.mark.parametrize(
    ("globs", "allowed"),
    [
        (None, True),
        ((), False),
        (("*",), True),
        (("meta-llama/*",), True),
        (("gpt-*", "meta-llama/Llama-?"), True),
        (("META-LLAMA/*",), False),
        (("Llama",), False),
    ],
)
def test_caller_may_use_what_a_glob_matches(globs: tuple[str, ...] | None, allowed: bool) -> None:
    caller = keys.Caller(id="1", name="alice", models=globs)

    assert caller.may_use("meta-llama/Llama-3") is allowed


async def test_known_key_is_answered_from_memory_for_a_second() -> None:
    book, clock = FakeBook({KEY.text: alice()}), Clock()
    ring = keyring(book, clock=clock)
    assert ring.cached(KEY.text) is None

    caller = await ring.authenticate(KEY.text)
    clock.seconds += 0.99
    assert (caller.id, caller.name) == (KEY.id, "alice")
    assert ring.cached(KEY.text) is caller
    assert await ring.authenticate(KEY.text) is caller
    assert book.asked == 1

    clock.seconds += 0.01
    assert ring.cached(KEY.text) is None
    await ring.authenticate(KEY.text)
    assert book.asked == 2


async def test_calls_at_the_same_time_share_one_lookup() -> None:
    book = FakeBook({KEY.text: alice()})
    ring = keyring(book)

    callers = await asyncio.gather(*(ring.authenticate(KEY.text) for _ in range(50)))

    assert {caller.name for caller in callers} == {"alice"}
    assert book.asked == 1


async def test_lookup_survives_the_caller_who_began_it() -> None:
    book = FakeBook({KEY.text: alice()})
    book.answering.clear()
    ring = keyring(book)
    first = asyncio.create_task(ring.authenticate(KEY.text))
    second = asyncio.create_task(ring.authenticate(KEY.text))
    await book.asking.wait()

    first.cancel()
    await asyncio.wait([first])
    book.answering.set()

    assert (await second).name == "alice"
    assert book.asked == 1


async def test_revoked_key_is_refused_a_second_later() -> None:
    book, clock = FakeBook({KEY.text: alice()}), Clock()
    ring = keyring(book, clock=clock)
    await ring.authenticate(KEY.text)

    book.stored[keys.digest(KEY.text, PEPPER)] = alice(revoked_at=2)
    clock.seconds += 1.0

    assert ring.cached(KEY.text) is None
    assert await refusal(ring, KEY.text) == "revoked"


async def test_key_expires_at_once_even_in_memory() -> None:
    book, clock = FakeBook({KEY.text: alice(expires_at=1_000)}), Clock()
    clock.seconds = 999.9
    ring = keyring(book, clock=clock)
    assert (await ring.authenticate(KEY.text)).expires_at == 1_000

    clock.seconds = 1_000.0

    assert ring.cached(KEY.text) is None
    assert await refusal(ring, KEY.text) == "expired"
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
)
async def test_what_cannot_be_a_key_never_reaches_the_book(text: str | None, reason: str) -> None:
    book = FakeBook({KEY.text: alice()})
    ring = keyring(book)

    assert await refusal(ring, text) == reason
    assert ring.cached(text or "") is None
    assert book.asked == 0


async def test_unknown_key_is_refused_from_memory_for_two_seconds() -> None:
    book, clock = FakeBook({}), Clock()
    ring = keyring(book, clock=clock)

    assert await refusal(ring, KEY.text) == "unknown"
    clock.seconds += 1.9
    assert await refusal(ring, KEY.text) == "unknown"
    assert book.asked == 1

    clock.seconds += 0.1
    await refusal(ring, KEY.text)
    assert book.asked == 2


async def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    made = [keys.generate() for _ in range(3)]
    book = FakeBook({key.text: alice() for key in made})
    ring = keyring(book, size=2)

    for key in made:
        await ring.authenticate(key.text)

    assert [ring.cached(key.text) is not None for key in made] == [False, True, True]


async def test_key_that_was_asked_for_again_is_not_the_oldest() -> None:
    made = [keys.generate() for _ in range(3)]
    book, clock = FakeBook({key.text: alice() for key in made}), Clock()
    ring = keyring(book, clock=clock, size=2)
    await ring.authenticate(made[0].text)
    clock.seconds += 0.9
    await ring.authenticate(made[1].text)
    clock.seconds += 0.1
    await ring.authenticate(made[0].text)

    await ring.authenticate(made[2].text)

    assert [ring.cached(key.text) is not None for key in made] == [True, False, True]


async def test_invented_keys_do_not_push_callers_out_of_memory() -> None:
    book = FakeBook({KEY.text: alice()})
    ring = keyring(book, size=2)
    await ring.authenticate(KEY.text)

    for _ in range(5):
        assert await refusal(ring, keys.generate().text) == "unknown"

    assert ring.cached(KEY.text) is not None


async def test_broken_book_is_told_and_not_remembered() -> None:
    book = FakeBook({KEY.text: alice()})
    book.broken = True
    ring = keyring(book)
    with pytest.raises(BookUnavailable):
        await ring.authenticate(KEY.text)

    book.broken = False

    assert (await ring.authenticate(KEY.text)).name == "alice"


async def test_first_run_makes_a_key_and_an_admin_key_once(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    ring = keys.Keyring(book.find_key, PEPPER)

    made = await keys.first_run(book, PEPPER)
    again = await keys.first_run(book, PEPPER)

    assert made is not None and again is None
    assert (await ring.authenticate(made.key.text)).name == "default"
    expected = await keys.admin_digest(book, PEPPER, env={})
    assert keys.is_admin(made.admin_key, PEPPER, expected=expected)
    assert not keys.is_admin(made.key.text, PEPPER, expected=expected)
    await book.aclose()


async def test_admin_key_of_the_environment_replaces_the_stored_one(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    made = await keys.first_run(book, PEPPER)
    assert made is not None

    env = {"DRAGOMAN_ADMIN_KEY": "open sesame"}
    expected = await keys.admin_digest(book, PEPPER, env=env)

    assert keys.is_admin("open sesame", PEPPER, expected=expected)
    assert not keys.is_admin(made.admin_key, PEPPER, expected=expected)
    await book.aclose()


def test_nobody_is_admin_without_an_admin_key() -> None:
    assert not keys.is_admin("", PEPPER, expected=None)


async def test_caller_has_the_options_of_the_stored_key(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    options = KeyOptions(name="bob", team="red", models=("gpt-*",), expires_at=9_999_999_999)
    await book.create_key(KEY.id, keys.digest(KEY.text, PEPPER), options=options)

    caller = await keys.Keyring(book.find_key, PEPPER).authenticate(KEY.text)

    assert caller == keys.Caller(
        id=KEY.id, name="bob", team="red", models=("gpt-*",), expires_at=9_999_999_999
    )
    await book.aclose()
