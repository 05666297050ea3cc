"""Cache keys: one for every spelling of a request, another for what could be answered otherwise."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapters.base import Call
from gateway.cache.keys import digest
from gateway.tapes import Recipe
from tests.gateway.cache import golden
from tests.gateway.cache.golden import GOLDEN, NAMES, RECIPES, call, digests, multipart

ROOT = Path(__file__).parents[3]
TARGET = {"scope": "global", "task": "chat", "model": "m", "target": "t"}
UNORDERED = ("", "parameters", "options", "messages", "messages.content")
ORDERED = ("tools", "functions", "response_format", "guided_json", "chat_template_kwargs", "extra")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
sources = st.randoms(use_true_random=False)


def key(body: str | bytes, *, form: Any = None, media: bytes = b"", **options: Any) -> str:
    """Return the digest of one call with this body."""
    data = body.encode() if isinstance(body, str) else body
    made = Call(**{"path": "/p", "body": data} | options)
    return digest(Recipe(calls=[made], form=form or {}, media=media), **TARGET)


def key_of(value: Any) -> str:
    return key(json.dumps(value))


def exactly(value: Any) -> Any:
    """Return what is equal for two values only if they say the same, in the same order."""
    match value:
        case bool() | None | str():
            return type(value), value
        case int() | float():
            return Decimal, Decimal(repr(value))
        case list():
            return list, [exactly(one) for one in value]
    return dict, [(name, exactly(one)) for name, one in value.items()]


def respelled(value: Any, source: random.Random) -> str:
    """Return JSON that says the same, with other digits, escapes and space."""
    space = source.choice(["", " ", "\n\t"])
    match value:
        case bool() | None:
            return json.dumps(value)
        case int():
            zeros = source.choice(["", ".0", ".000", "e0", "E+00", "0e-1", ".0e0"])
            return f"{source.choice(['', '-']) if value == 0 else ''}{value}{zeros}"
        case float():
            zeros = source.choice(["", "0", "00e0"]) if "e" not in repr(value) else ""
            return f"{value!r}{zeros}"
        case str():
            return "".join(_respelled_character(one, source) for one in value).join('""')
        case list():
            return f",{space}".join(respelled(one, source) for one in value).join("[]")
    members = [
        f"{respelled(n, source)}{space}:{respelled(one, source)}" for n, one in value.items()
    ]
    return f"{space},{space}".join(members).join([f"{{{space}", f"{space}}}"])


def _respelled_character(one: str, source: random.Random) -> str:
    if one >= " " and one not in '"\\' and source.random() < 0.5:
        return one
    units = one.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def shuffled(value: dict[str, Any], source: random.Random) -> dict[str, Any]:
    return dict(source.sample(list(value.items()), len(value)))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of whatever holds no other."""
    if isinstance(value, dict | list) and value:
        for place, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, place))
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with something else in one place."""
    whole = holder = deepcopy([value])
    for place in (0, *path)[:-1]:
        holder = holder[place]
    holder[(0, *path)[-1]] = new
    return whole[0]


@given(values, values)
def test_two_values_have_one_key_only_if_they_say_the_same(one: Any, other: Any) -> None:
    is_same = exactly(one) == exactly(other)
    assert (key_of({"extra": one}) == key_of({"extra": other})) == is_same
    assert (key("", form={"extra": one}) == key("", form={"extra": other})) == is_same


@given(values, values, st.data())
def test_any_change_of_one_leaf_gives_another_key(
    value: Any, new: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(leaves(value))))
    other = changed(value, path, new)
    assume(exactly(other) != exactly(value))
    for name in (*ORDERED, "inputs", "temperature"):
        assert key_of({name: value}) != key_of({name: other})
    for outer in ("parameters", "options", "image_url"):
        assert key_of({outer: {"x": value}}) != key_of({outer: {"x": other}})
    assert key_of({"messages": [{"content": value}]}) != key_of({"messages": [{"content": other}]})


@pytest.mark.parametrize("name", ["chat", "generate", "image", "embedding", "array"])
def test_every_leaf_of_a_real_request_counts(name: str) -> None:
    recipe = RECIPES[name]
    body = json.loads(recipe.calls[0].body)
    bodies = {json.dumps(body)}
    for path in leaves(body):
        bodies |= {json.dumps(changed(body, path, new)) for new in ("other", 77, None, {}, [])}
    found = set()
    for each in bodies:
        calls = [replace(recipe.calls[0], body=each.encode())]
        found.add(digest(replace(recipe, calls=calls), **NAMES))
    assert len(found) == len(bodies) > 3 * len(list(leaves(body)))


@given(values, sources)
def test_spelling_does_not_count(value: Any, source: random.Random) -> None:
    body = {"extra": value, "inputs": value, "parameters": {"x": value}}
    assert key(respelled(body, source)) == key_of(body)


@settings(max_examples=30)
@given(st.dictionaries(texts, values, min_size=2, max_size=5), sources)
@pytest.mark.parametrize("name", UNORDERED)
def test_order_does_not_count_where_members_are_looked_up(
    name: str, given: dict[str, Any], source: random.Random
) -> None:
    def body(value: Any) -> Any:
        match name.split("."):
            case ["messages", "content"]:
                return {"messages": [{"role": "user", "content": [value]}]}
            case ["messages"]:
                return {"messages": [value]}
            case [outer] if outer:
                return {outer: value}
        return value

    assert key_of(body(shuffled(given, source))) == key_of(body(given))


def test_order_does_not_count_in_an_image_of_a_message_and_in_the_form() -> None:
    image = {"url": "data:,", "detail": "low"}
    turned = dict(reversed(image.items()))
    one, other = (
        key_of({"messages": [{"content": [{"type": "image_url", "image_url": each}]}]})
        for each in (image, turned)
    )
    assert one == other
    assert key("", form=image) == key("", form=turned)


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("outer", [None, "parameters"])
def test_order_counts_where_it_is_written_out(name: str, outer: str | None) -> None:
    found = {
        key_of({outer: {name: each}} if outer else {name: each})
        for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [{"a": 1, "b": 2}], [{"b": 2, "a": 1}])
    }
    assert len(found) == 4


def test_order_counts_in_tool_calls_and_inside_of_what_the_form_holds() -> None:
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    messages = (
        {"messages": [{"role": "assistant", "tool_calls": [each]}]} for each in (one, other)
    )
    assert len({key_of(each) for each in messages}) == 2
    assert key("", form={"tools": one}) != key("", form={"tools": other})


@settings(max_examples=50)
@given(st.lists(values, min_size=2, max_size=4), sources)
def test_order_counts_in_arrays(items: list[Any], source: random.Random) -> None:
    other = source.sample(items, len(items))
    assume(exactly(other) != exactly(items))
    for name in ("stop", "messages", "input"):
        assert key_of({name: items}) != key_of({name: other})


@pytest.mark.parametrize(
    "spellings",
    [
        ("1", "1.0", "1e0", "10e-1", "0.1E+1"),
        ("0", "-0", "0.0", "-0.0", "0e5", "-0e-400"),
        ("0.7", "7e-1", "0.70", "0.07e1"),
        ("1e-400", "0.1e-399"),
        ("1e400", "10e399", "1" + "0" * 400),
        ("1e401", "1.0e401"),
        ("100000000000000000000000", "1e23", "1.0E23"),
    ],
)
def test_a_number_has_one_key_however_it_is_written(spellings: tuple[str, ...]) -> None:
    assert len({key(f'{{"seed": {each}}}') for each in spellings}) == 1


def test_what_is_nearly_the_same_number_has_another_key() -> None:
    apart = """1 2 -1 10 100 true "1" "1.0" null [1] {} [] "" 0 false 0.1 0.10000000000000001
        9007199254740992 9007199254740993 9007199254740993.5 18446744073709551616 1e400 1e401
        1e999999999999 1e99999999999999999999999 2e99999999999999999999999 1e-400 2e-400
        1e-99999999999999999999999 2e-99999999999999999999999 "1e400" """
    assert len({key(f'{{"seed": {each}}}') for each in apart.split()}) == len(apart.split())


def test_texts_are_not_normalised() -> None:
    apart = ["\u00e9", "e\u0301", "E\u0301", "a", "A", " a", "a ", "a\n", "a\r\n", "\0", "\ufeffa"]
    assert len({key_of({"inputs": each}) for each in apart}) == len(apart)


def test_a_member_that_is_null_is_not_one_that_is_absent() -> None:
    assert key_of({"a": None}) != key_of({})
    assert key("", form={"a": None}) != key("", form={})


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_bodies_that_are_no_json_count_by_their_bytes(one: bytes, other: bytes) -> None:
    kind = {"content-type": "audio/wav"}
    assert (key(one, headers=kind) == key(other, headers=kind)) == (one == other)


def test_json_in_no_json_is_bytes_like_others() -> None:
    kind = {"content-type": "audio/wav"}
    assert key("[1]", headers=kind) != key("[1.0]", headers=kind)
    assert key("[1]", headers=kind) != key("[1]")
    broken = ["", "{", "[1", "[1]]", "[nan]", b'"\xff"', b'"\\ud800"', b"[" * 100_000]
    assert len({key(each) for each in broken}) == len(broken)


def test_what_a_sound_is_called_counts() -> None:
    kinds = ({"content-type": kind} for kind in ("audio/wav", "audio/flac"))
    assert len({key(b"RIFF", headers=headers) for headers in kinds}) == 2


def test_a_multipart_body_counts_without_its_boundary() -> None:
    def made(sent: Call) -> str:
        return digest(Recipe(calls=[sent]), **TARGET)

    sent = multipart("one")
    assert made(sent) == made(multipart("another"))
    assert made(sent) != made(replace(sent, body=sent.body.replace(b"RIFF", b"RIFX")))
    assert made(sent) != made(replace(sent, body=sent.body.replace(b"whisper", b"whispe")))


def test_of_the_headers_only_accept_counts() -> None:
    plain = key("{}")
    assert key("{}", headers={"x-use-cache": "0", "user-agent": "a"}) == plain
    png, upper, jpeg = (
        key("{}", headers=headers)
        for headers in ({"accept": "image/png"}, {"Accept": "image/png"}, {"accept": "image/jpeg"})
    )
    assert png == upper
    assert len({plain, png, jpeg, key("{}", headers={"accept": ""})}) == 4


def test_the_number_of_a_choice_does_not_count() -> None:
    assert key("{}", index=3) == key("{}")


@given(
    st.lists(st.sampled_from(["", "a", "b", "ab", '"', ",", '","', "\0", "]", "[["]), min_size=4)
)
def test_no_text_passes_for_structure(parts: list[str]) -> None:
    """The names, in whatever way the same characters are parted among them."""
    seen: dict[str, tuple[str, ...]] = {}
    for ends in combinations(range(min(len(parts), 6) + 1), 3):
        names = tuple(
            "".join(parts[start:end])
            for start, end in zip((0, *ends), (*ends, len(parts)), strict=True)
        )
        made = digest(Recipe(), **dict(zip(TARGET, names, strict=True)))
        assert seen.setdefault(made, names) == names


def test_every_component_counts() -> None:
    base = Recipe(calls=[call("/p", {"a": 1})], form={"n": 1}, media=b"m")
    recipes = [
        base,
        replace(base, calls=[]),
        replace(base, calls=[call("/p", {"a": 1})] * 2),
        replace(base, calls=[call("/q", {"a": 1})]),
        replace(base, calls=[call("/p", {"a": 1}, method="GET")]),
        replace(base, form={}),
        replace(base, media=b""),
        replace(base, media=b"n"),
    ]
    found = {digest(recipe, **TARGET) for recipe in recipes}
    found |= {digest(base, **TARGET | {name: "other"}) for name in TARGET}
    assert len(found) == len(recipes) + len(TARGET)


def test_calls_are_in_their_order() -> None:
    both = RECIPES["two calls"]
    assert digest(both, **TARGET) != digest(replace(both, calls=both.calls[::-1]), **TARGET)


def test_keys_are_those_of_earlier_releases() -> None:
    assert digests() == GOLDEN
    assert len(set(GOLDEN.values())) == len(GOLDEN)
    assert all(len(each) == 64 for each in GOLDEN.values())


@pytest.mark.parametrize("seed", ["1", "2"])
def test_keys_are_those_of_other_processes(seed: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", golden.__name__],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout) == GOLDEN
