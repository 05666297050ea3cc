import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keys
from gateway.book import Book

pytestmark = pytest.mark.anyio

PEPPER = b"p" * 32
KEY = keys.generate()
OTHER = keys.generate()


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


def test_a_new_text_can_be_made_for_a_key_that_there_is() -> None:
    again = keys.generate(KEY.id)

    assert again.id == KEY.id == keys.parse(again.text)
    assert again.text != KEY.text


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


async def test_first_run_makes_a_key_and_an_admin_key_once(tmp_path: Path) -> None:
    book = await Book.open(tmp_path)
    made = await keys.first_run(book, PEPPER)
    again = await keys.first_run(book, PEPPER)

    assert made is not None and again is None
    found = await book.find_key(keys.digest(made.key.text, PEPPER))
    assert found is not None and found.name == "default"
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
