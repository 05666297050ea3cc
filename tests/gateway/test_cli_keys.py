"""`dragoman keys`, `teams` and `audit`: what they do to the book, and what they say."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from gateway.book import KeyOptions
from gateway.keys import digest, load_pepper, parse
from tests.gateway.dragoman import at_book, check_refusal, new_key, printed, run
from tests.gateway.running import PEPPER, started_gateway


def test_create_prints_the_key_and_what_it_may(tmp_path: Path) -> None:
    key = new_key(
        tmp_path,
        *"--name alice --team red --models local-*,hibari-tts/* --expires 2990-01-02".split(),
        *"--rpm 5 --rpm-burst 2 --usd-per-month 1.50".split(),
        *("--metadata", "desk=4=5", "--metadata", '{"tags": ["a"]}'),
    )
    assert parse(key["key"]) == key["id"]
    assert (key["name"], key["team"]) == ("alice", "red")
    assert key["models"] == ["local-*", "hibari-tts/*"]
    assert key["limits"] == {"rpm": 5, "rpm_burst": 2, "usd_per_month": "1.50"}
    assert key["metadata"] == {"desk": "4=5", "tags": ["a"]}
    assert (key["state"], key["expires_at"]) == ("active", "2990-01-02T00:00:00Z")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2990-01-02T03:04:05", "2990-01-02T03:04:05Z"),
        ("2990-01-02T03:04:05Z", "2990-01-02T03:04:05Z"),
        ("2990-01-02T03:04:05+02:00", "2990-01-02T01:04:05Z"),
    ],
)
def test_a_time_without_zone_is_utc(tmp_path: Path, given: str, stored: str) -> None:
    assert new_key(tmp_path, "--name", "a", "--expires", given)["expires_at"] == stored


def test_create_shows_the_key_to_people_too(tmp_path: Path) -> None:
    result = run("keys", "create", "--name", "alice", "--data-dir", tmp_path)
    first, _, note = result.stdout.splitlines()
    key_id = parse(first)
    assert key_id is not None
    assert key_id in note


def test_a_team_that_is_new_is_made_and_told_beside_the_output(tmp_path: Path) -> None:
    arguments = ("keys", "create", "--name", "a", "--team", "red", "--data-dir", tmp_path)
    first, second = run(*arguments, "--json"), run(*arguments, "--json")
    assert "'red' is new" in first.stderr
    assert second.stderr == ""
    assert json.loads(first.stdout)["team"] == json.loads(second.stdout)["team"] == "red"
    assert [team["name"] for team in printed(tmp_path, "teams", "list")] == ["red"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "gpt-*"], ["--models", "'gpt-*'", "local-chat"]),
        (["--models", "local-*,nope"], ["--models", "'nope'"]),
        (["--expires", "2020-01-01"], ["--expires", "to come"]),
        (["--rpm", "9999999999999"], ["--rpm", "1,000,000,000,000"]),
        (["--tpm-burst", "5"], ["--tpm-burst", "tpm"]),
        (["--usd-per-month", "1000001"], ["--usd-per-month", "1,000,000"]),
        (["--usd-per-month", "0.0000000001"], ["--usd-per-month", "9 decimals"]),
        (["--name", ""], ["--name", "1 to 200"]),
        (["--name", "x" * 201], ["--name", "1 to 200"]),
        (["--name", "a\udcff"], ["--name", "printed"]),
        (["--team", "a/b"], ["--team", "'/'"]),
        (["--metadata", "a=" + "x" * 16_384], ["--metadata", "16384 bytes"]),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, list) else None,
)
def test_what_a_key_cannot_be_is_refused_by_its_option(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    result = run("keys", "create", "--name", "a", *arguments, "--data-dir", tmp_path)
    check_refusal(result, "Error: ", *words)
    assert printed(tmp_path, "keys", "list") == []
    assert printed(tmp_path, "teams", "list") == []


def test_the_models_of_the_configuration_are_the_ones_to_match(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[[upstreams]]\nname="u"\ndialect="openai"\nbase_url="http://h"\n'
        '[[models]]\nid="org/m"\naliases=["nick"]\ntargets=[{upstream="u"}]\n'
    )
    key = new_key(tmp_path, "--name", "a", "--models", "n*,org/*", "--config", str(config))
    assert key["models"] == ["n*", "org/*"]
    arguments = ("keys", "create", "--name", "a", "--models", "local-*", "--config", config)
    check_refusal(run(*arguments, "--data-dir", tmp_path), "org/m, nick")


def test_list_shows_no_key_but_all_of_them(tmp_path: Path) -> None:
    alice, bob = new_key(tmp_path, "--name", "alice"), new_key(tmp_path, "--name", "bob")
    run("keys", "revoke", alice["id"], "--data-dir", tmp_path)
    eve = KeyOptions(name="eve", expires_at=1)
    at_book(tmp_path, lambda book: book.create_key("eve", b"digest", options=eve))
    listed = printed(tmp_path, "keys", "list")
    states = sorted((key["name"], key["state"]) for key in listed)
    assert states == [("alice", "revoked"), ("bob", "active"), ("eve", "expired")]
    table = run("keys", "list", "--data-dir", tmp_path).stdout
    heads, *rows = [line.split() for line in table.splitlines()]
    assert heads == ["ID", "NAME", "TEAM", "MODELS", "STATE", "CREATED"]
    assert sorted(row[1:5] for row in rows) == [
        ["alice", "-", "all", "revoked"],
        ["bob", "-", "all", "active"],
        ["eve", "-", "all", "expired"],
    ]
    assert bob["key"] not in table + json.dumps(listed)


def test_list_of_an_empty_book_is_an_empty_list(tmp_path: Path) -> None:
    assert printed(tmp_path, "keys", "list") == []


def test_list_shows_more_keys_than_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keys_cli._PAGE", 2)
    made = [new_key(tmp_path, "--name", f"n{number}")["id"] for number in range(5)]
    assert sorted(key["id"] for key in printed(tmp_path, "keys", "list")) == sorted(made)
    lines = run("keys", "list", "--data-dir", tmp_path).stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted([*made, "ID"])


def test_list_shows_one_team(tmp_path: Path) -> None:
    new_key(tmp_path, "--name", "a")
    mine = new_key(tmp_path, "--name", "b", "--team", "red")
    assert [key["id"] for key in printed(tmp_path, "keys", "list", "--team", "red")] == [mine["id"]]
    result = run("keys", "list", "--team", "nope", "--data-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'nope'" in result.stderr


def test_show_is_the_key_without_its_text(tmp_path: Path) -> None:
    made = new_key(tmp_path, "--name", "a", "--rpm", "5", "--usd-per-month", "0.0000001")
    text = made.pop("key")
    assert printed(tmp_path, "keys", "show", made["id"]) == made
    shown = run("keys", "show", made["id"], "--data-dir", tmp_path).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["limits"] == "rpm=5, usd_per_month=0.0000001"
    assert (lines["models"], lines["expires_at"]) == ("all", "-")
    assert text not in shown


def test_update_changes_what_is_given_and_leaves_the_rest(tmp_path: Path) -> None:
    made = new_key(
        tmp_path,
        *"--name a --rpm 5 --tpm 7 --models local-* --expires 2990-01-01 --metadata x=1".split(),
    )
    changes = "--rpm none --concurrency 0 --models all --expires never --name b".split()
    changed = printed(tmp_path, "keys", "update", made["id"], *changes)
    assert changed["limits"] == {"tpm": 7, "concurrency": 0}
    assert (changed["name"], changed["models"], changed["expires_at"]) == ("b", None, None)
    assert changed["metadata"] == {"x": "1"}
    emptied = printed(tmp_path, "keys", "update", made["id"], "--metadata", "{}")
    assert emptied == {**changed, "metadata": {}}


def test_update_of_the_team_says_what_to_do_instead(tmp_path: Path) -> None:
    made = new_key(tmp_path, "--name", "a")
    result = run("keys", "update", made["id"], "--team", "red", "--data-dir", tmp_path)
    check_refusal(result, "--team", "make a new key")


def test_rotate_prints_a_new_text_and_keeps_the_old_one_for_a_while(tmp_path: Path) -> None:
    made = new_key(tmp_path, "--name", "a")
    result = run("keys", "rotate", made["id"], "--grace", "1h", "--data-dir", tmp_path)
    text, _, note = result.stdout.splitlines()
    assert parse(text) == made["id"]
    assert text != made["key"]
    pepper = load_pepper(tmp_path)
    old = at_book(tmp_path, lambda book: book.find_key(digest(made["key"], pepper)))
    new = at_book(tmp_path, lambda book: book.find_key(digest(text, pepper)))
    assert old is not None
    assert new is not None
    assert new.digest_expires_at is None
    rotation = at_book(tmp_path, lambda book: book.audit(limit=1))[0]
    assert old.digest_expires_at == rotation.at + 3600
    assert "is good until 2" in note
    again = run("keys", "rotate", made["id"], "--grace", "0", "--data-dir", tmp_path)
    assert "refused from now on" in again.stdout


def test_revoke_tells_whether_it_changed_anything(tmp_path: Path) -> None:
    key_id = new_key(tmp_path, "--name", "a")["id"]
    arguments = ("keys", "revoke", key_id, "--data-dir", tmp_path)
    assert run(*arguments).stdout == f"Key {key_id} is revoked.\n"
    assert run(*arguments).stdout == f"Key {key_id} was already revoked.\n"
    told = json.loads(run(*arguments, "--json").stdout)
    assert told == {"id": key_id, "revoked": True, "changed": False}
    check_refusal(run("keys", "rotate", key_id, "--data-dir", tmp_path), "ID", "is revoked")


def test_a_key_is_revoked_even_if_the_pepper_is_lost(tmp_path: Path) -> None:
    key_id = new_key(tmp_path, "--name", "a")["id"]
    (tmp_path / "pepper").write_bytes(b"short")
    assert run("keys", "revoke", key_id, "--data-dir", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "show", "nope"],
        ["keys", "update", "nope", "--rpm", "1"],
        ["keys", "rotate", "nope"],
        ["keys", "revoke", "nope"],
        ["teams", "show", "nope"],
        ["teams", "update", "nope", "--rpm", "1"],
        ["usage", "--key", "nope"],
        ["usage", "--team", "nope"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_exits_1(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "--data-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("dragoman: ")
    assert "'nope'" in result.stderr


def test_teams_are_made_shown_and_changed(tmp_path: Path) -> None:
    made = printed(tmp_path, "teams", "create", "red", *"--rpm 4 --tpm 9 --metadata x=1".split())
    assert (made["limits"], made["metadata"]) == ({"rpm": 4, "tpm": 9}, {"x": "1"})
    changed = printed(tmp_path, "teams", "update", "red", "--tpm", "none", "--concurrency", "2")
    assert (changed["limits"], changed["metadata"]) == ({"rpm": 4, "concurrency": 2}, {"x": "1"})
    assert printed(tmp_path, "teams", "show", "red") == changed
    assert printed(tmp_path, "teams", "list") == [changed]
    table = run("teams", "list", "--data-dir", tmp_path).stdout
    assert "red   rpm=4, concurrency=2  2" in table
    shown = run("teams", "show", "red", "--data-dir", tmp_path).stdout
    assert "limits      rpm=4, concurrency=2\n" in shown


def test_a_team_is_made_once(tmp_path: Path) -> None:
    arguments = ("teams", "create", "red", "--data-dir", tmp_path)
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "'red' already" in again.stderr


def test_the_audit_tells_who_did_it_and_what_changed(tmp_path: Path) -> None:
    key_id = new_key(tmp_path, "--name", "a", "--team", "red")["id"]
    run("keys", "update", key_id, "--rpm", "5", "--data-dir", tmp_path)
    changes = printed(tmp_path, "audit", "--subject", key_id)
    assert [change["action"] for change in changes] == ["key.update", "key.create"]
    assert {change["actor"] for change in changes} == {f"cli:{getpass.getuser()}"}
    _, update, create, team = run("audit", "--data-dir", tmp_path).stdout.splitlines()
    assert update.endswith(f'key.update   {key_id}  limits={{"rpm":5}}')
    assert create.endswith(f'key.create   {key_id}  name="a", team="red"')
    assert team.endswith('team.create  red       name="red"')
    assert len(printed(tmp_path, "audit", "--limit", "1")) == 1
    older = printed(tmp_path, "audit", "--after", str(changes[1]["id"]))
    assert [change["subject"] for change in older] == ["red"]


@pytest.mark.anyio
async def test_keys_work_while_a_gateway_holds_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_PEPPER", PEPPER.decode())
    async with started_gateway(tmp_path) as gateway, gateway.client() as client:

        async def ask(key: Any) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await client.get("/v1/models", headers=headers)).status_code

        made = await run_sync(new_key, tmp_path, "--name", "a")
        other = await run_sync(new_key, tmp_path, "--name", "b")
        assert await ask(made["key"]) == 200
        await run_sync(run, "keys", "revoke", str(other["id"]), "--data-dir", tmp_path)
        assert await ask(other["key"]) == 401
