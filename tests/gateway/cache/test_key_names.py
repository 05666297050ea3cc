"""Where answers are kept in the store, and who may share them."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.keys import lock_key, parse_storage_key, pattern, scope_of, storage_key

DIGEST = "0a" * 32

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def test_scopes() -> None:
    assert scope_of("key", "Ab3dEf9h", "red") == "key.Ab3dEf9h"
    assert scope_of("team", "Ab3dEf9h", "red") == "team.red"
    assert scope_of("team", "Ab3dEf9h", None) == "key.Ab3dEf9h"
    assert scope_of("global", "Ab3dEf9h", "red") == "global"


@given(texts, texts)
def test_no_two_scopes_coincide(one: str, other: str) -> None:
    assert (scope_of("team", "k", one) == scope_of("team", "k", other)) == (one == other)
    assert (scope_of("key", one, None) == scope_of("key", other, None)) == (one == other)
    assert scope_of("key", one, None) not in (scope_of("team", "k", other), "global")


def test_answer_and_lock_are_on_one_shard_of_a_cluster() -> None:
    kept = storage_key(DIGEST, model="meta/llama:8b", scope="key.Ab3dEf9h")
    assert kept == f"answer:{{{DIGEST}}}:meta%2Fllama%3A8b:key.Ab3dEf9h"
    assert lock_key(DIGEST) == f"flight:{{{DIGEST}}}"


@given(texts, texts)
def test_a_key_tells_its_digest_and_model(model: str, team: str) -> None:
    kept = storage_key(DIGEST, model=model, scope=scope_of("team", "k", team))
    assert parse_storage_key(kept) == (DIGEST, model)


@pytest.mark.parametrize("foreign", ["", "answer:", "answer:x:m:s", "answer:{x}:m", "a:{x}:m:s"])
def test_a_foreign_key_is_told(foreign: str) -> None:
    assert parse_storage_key(foreign) is None


@given(*[st.text("ab*?[]^-\\:{}/. é", max_size=4)] * 4)
def test_a_pattern_finds_what_it_names_and_nothing_else(
    model: str, team: str, other: str, other_team: str
) -> None:
    scope, other_scope = scope_of("team", "k", team), scope_of("team", "k", other_team)
    kept = storage_key(DIGEST, model=other, scope=other_scope)
    assert fnmatchcase(kept, pattern())
    assert fnmatchcase(kept, pattern(model)) == (model == other)
    assert fnmatchcase(kept, pattern(scope=scope)) == (team == other_team)
    assert fnmatchcase(kept, pattern(model, scope)) == ((model, team) == (other, other_team))
    assert fnmatchcase(storage_key(DIGEST, model=model, scope=scope), pattern(model, scope))
