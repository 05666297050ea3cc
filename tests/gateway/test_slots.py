"""Where a cluster keeps what."""

from __future__ import annotations

import pytest

from gateway.accounts import SHARDS, Account, shard_keys
from gateway.slots import Range, key_of, parse_ranges, parse_redirection, slot_of


def test_slot_is_the_check_value_of_the_specification() -> None:
    assert slot_of("123456789") == 0x31C3


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("{user1000}.following", "user1000"),
        ("foo{}{bar}", "foo{}{bar}"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        ("foo{bar", "foo{bar"),
        ("foo}bar{", "foo}bar{"),
    ],
)
def test_only_what_the_first_braces_hold_counts(key: str, hashed: str) -> None:
    assert slot_of(key) == slot_of(key.encode())
    assert slot_of(key) == slot_of(hashed) != slot_of(f"{hashed}.")


def test_all_keys_of_an_account_are_in_one_slot() -> None:
    account = Account.of(key_id="alice", team="red")
    assert len({slot_of(key) for key in account.keys}) == 1


def test_shards_are_spread_over_all_parts_of_a_cluster() -> None:
    thirds = [slot_of(shard_keys(shard)[0]) * 3 // 16_384 for shard in range(SHARDS)]
    assert min(thirds.count(third) for third in range(3)) >= 15


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("SPUBLISH", "k", b"data"), "k"),
        ((b"EVALSHA", b"sha", 2, "k", "l", "argument"), "k"),
        ((b"EVAL", b"text", 0, "argument"), None),
        (("XINFO", "STREAM", "k"), "k"),
        (("TIME",), None),
        ((b"TIME",), None),
        (("CONFIG", "GET", "maxmemory"), None),
        (("DBSIZE",), None),
    ],
)
def test_the_first_key_of_a_command_is_found(command: tuple[str, ...], key: str | None) -> None:
    assert key_of(command) == key


def test_a_server_without_an_address_is_where_it_was_asked() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.2", 7000, b"replica"]],
        [100, 199, [None, 7001, b"id", []]],
        [200, 299, [b"", 7002, b"id"]],
        [300, 399, [b"?", 7003, b"id"]],
    ]
    assert list(parse_ranges(reply, asked="seed")) == [
        Range(0, 99, "10.0.0.1", 7000),
        Range(100, 199, "seed", 7001),
        Range(200, 299, "seed", 7002),
    ]


def test_a_redirection_names_slot_and_server() -> None:
    assert parse_redirection("MOVED 3999 10.0.0.1:6381", asked="a") == (3999, "10.0.0.1", 6381)
    assert parse_redirection("ASK 3999 ::1:6381", asked="a") == (3999, "::1", 6381)
    assert parse_redirection("MOVED 3999 :6381", asked="a") == (3999, "a", 6381)


@pytest.mark.parametrize("message", ["MOVED 3999 ?:6381", "MOVED", "ASK 3999 host:", "ASK x h:1"])
def test_a_redirection_to_nowhere_is_refused(message: str) -> None:
    with pytest.raises(ValueError):
        parse_redirection(message, asked="a")
