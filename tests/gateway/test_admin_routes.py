"""The admin API: what it does to the book, and how it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import digest, parse
from tests.gateway.admin_app import Admin, administered, refusal
from tests.gateway.running import PEPPER

pytestmark = pytest.mark.anyio

FULL = {
    "name": "alice",
    "team": "red",
    "models": ["hf/*", "alias-tgi"],
    "limits": {"rpm": 5, "rpm_burst": 2, "usd_per_month": "1.50"},
    "metadata": {"cost_centre": 7, "tags": ["a"]},
    "expires_at": "2990-01-02T03:04:05+02:00",
}


@pytest.fixture
async def admin(tmp_path: Path, empty_file: Path) -> AsyncIterator[Admin]:
    shutil.copy(empty_file, tmp_path)
    async with administered(tmp_path) as made:
        await made.ask("POST", "/teams", json={"name": "red"})
        yield made


async def test_nothing_is_open_without_the_admin_key(admin: Admin) -> None:
    key = await admin.new_key()
    for headers in ({"authorization": ""}, {"authorization": f"Bearer {key['key']}"}):
        for method, path in (("GET", "/keys"), ("POST", "/teams"), ("GET", "/usage")):
            status, _, _ = await refusal(admin, method, path, headers=headers)
            assert status == 401


async def test_a_key_is_made_with_all_that_was_asked_and_shown_once(admin: Admin) -> None:
    made = await admin.new_key(**FULL)

    text = made.pop("key")
    assert parse(text) == made["id"]
    assert made == {
        **FULL,
        "id": made["id"],
        "state": "active",
        "created_at": made["created_at"],
        "expires_at": "2990-01-02T01:04:05Z",
        "revoked_at": None,
    }
    assert (await admin.ask("GET", f"/keys/{made['id']}")).json() == made
    found = await admin.book.find_key(digest(text, PEPPER))
    assert found is not None
    assert found.id == made["id"]


async def test_a_key_needs_no_more_than_a_name(admin: Admin) -> None:
    made = await admin.new_key()
    assert (made["team"], made["models"], made["limits"], made["metadata"], made["expires_at"]) == (
        None,
        None,
        {},
        {},
        None,
    )


@pytest.mark.parametrize(
    ("sent", "kept"), [(0.1, "0.1"), (5, "5"), ("5.000", "5.000"), (1e-7, "0.0000001")]
)
async def test_money_is_kept_as_it_was_written(admin: Admin, sent: object, kept: str) -> None:
    made = await admin.new_key(limits={"usd_per_month": sent})
    assert made["limits"] == {"usd_per_month": kept}


async def test_update_changes_what_is_given_and_leaves_the_rest(admin: Admin) -> None:
    key_id = (await admin.new_key(**FULL))["id"]
    changes = {
        "limits": {"rpm": None, "rpm_burst": None, "tpm": 9},
        "models": None,
        "expires_at": None,
        "metadata": {"x": 1},
    }

    changed = (await admin.ask("PATCH", f"/keys/{key_id}", json=changes)).json()

    assert changed["limits"] == {"tpm": 9, "usd_per_month": "1.50"}
    assert (changed["models"], changed["expires_at"]) == (None, None)
    assert (changed["name"], changed["team"], changed["metadata"]) == ("alice", "red", {"x": 1})
    assert (await admin.ask("GET", f"/keys/{key_id}")).json() == changed


async def test_limits_that_are_null_are_all_taken_off(admin: Admin) -> None:
    key_id = (await admin.new_key(**FULL))["id"]
    changed = await admin.ask("PATCH", f"/keys/{key_id}", json={"limits": None})
    assert changed.json()["limits"] == {}


async def test_a_limit_is_checked_beside_those_that_stay(admin: Admin) -> None:
    key_id = (await admin.new_key(**FULL))["id"]
    asked = {"json": {"limits": {"rpm": None}}}
    assert await refusal(admin, "PATCH", f"/keys/{key_id}", **asked) == (
        400,
        "limits.rpm_burst",
        "invalid_value",
    )


async def test_rotation_gives_a_new_text_and_ends_the_old_one_in_time(admin: Admin) -> None:
    made = await admin.new_key()

    answer = await admin.ask("POST", f"/keys/{made['id']}/rotate", json={"grace_seconds": 60})

    assert answer.status_code == 200
    new = answer.json()
    assert new["id"] == made["id"] == parse(new["key"])
    old = await admin.book.find_key(digest(made["key"], PEPPER))
    assert old is not None
    assert old.digest_expires_at is not None
    current = await admin.book.find_key(digest(new["key"], PEPPER))
    assert current is not None
    assert current.digest_expires_at is None


@pytest.mark.parametrize(
    ("body", "grace_seconds"),
    [({}, 86_400), ({"json": {}}, 86_400), ({"json": {"grace_seconds": 0}}, 0)],
)
async def test_the_old_text_is_good_for_a_day_unless_told(
    admin: Admin, body: dict[str, Any], grace_seconds: int
) -> None:
    made = await admin.new_key()
    await admin.ask("POST", f"/keys/{made['id']}/rotate", **body)
    old = await admin.book.find_key(digest(made["key"], PEPPER))
    rotation = (await admin.book.audit(limit=1))[0]
    assert old is not None
    assert old.digest_expires_at == rotation.at + grace_seconds


@pytest.mark.parametrize(("method", "end"), [("POST", "/revoke"), ("DELETE", "")])
async def test_a_revoked_key_stays_and_is_not_rotated(admin: Admin, method: str, end: str) -> None:
    path = f"/keys/{(await admin.new_key())['id']}"
    first = await admin.ask(method, path + end)
    again = await admin.ask(method, path + end)
    assert (first.status_code, first.json()["state"]) == (200, "revoked")
    assert again.json() == first.json() == (await admin.ask("GET", path)).json()
    assert await refusal(admin, "POST", path + "/rotate") == (409, "id", "key_revoked")


async def test_keys_are_listed_page_by_page(admin: Admin) -> None:
    made = [(await admin.new_key(name=f"n{number}"))["id"] for number in range(5)]
    listed: list[str] = []
    more, after = True, ""
    while more:
        page = (await admin.ask("GET", f"/keys?limit=2{after}")).json()
        listed += [key["id"] for key in page["data"]]
        more, after = page["has_more"], f"&after={listed[-1]}"
        assert page["object"] == "list"
        assert len(page["data"]) <= 2
    assert sorted(listed) == sorted(made)


async def test_keys_are_listed_by_team(admin: Admin) -> None:
    await admin.new_key()
    mine = await admin.new_key(team="red")
    page = (await admin.ask("GET", "/keys?team=red")).json()
    assert [key["id"] for key in page["data"]] == [mine["id"]]
    assert page["has_more"] is False
    assert await refusal(admin, "GET", "/keys?team=nope") == (404, None, "team_not_found")


async def test_teams_are_made_shown_and_changed(admin: Admin) -> None:
    made = await admin.ask("POST", "/teams", json={"name": "blue", "limits": {"rpm": 4, "tpm": 9}})
    assert made.status_code == 201
    assert made.json()["limits"] == {"rpm": 4, "tpm": 9}
    change = {"limits": {"tpm": None, "concurrency": 2}, "metadata": {"a": 1}}
    changed = (await admin.ask("PATCH", "/teams/blue", json=change)).json()
    assert (changed["limits"], changed["metadata"]) == ({"rpm": 4, "concurrency": 2}, {"a": 1})
    assert (await admin.ask("GET", "/teams/blue")).json() == changed
    listed = (await admin.ask("GET", "/teams")).json()
    assert [team["name"] for team in listed["data"]] == ["blue", "red"]
    assert await refusal(admin, "POST", "/teams", json={"name": "blue"}) == (
        409,
        "name",
        "team_exists",
    )


async def test_a_team_is_found_under_any_name_that_it_may_have(admin: Admin) -> None:
    name = "R&D? 100% #1 日本"
    await admin.ask("POST", "/teams", json={"name": name})
    found = await admin.ask("GET", "/teams/R%26D%3F%20100%25%20%231%20%E6%97%A5%E6%9C%AC")
    assert found.json()["name"] == name


async def test_the_audit_tells_who_changed_what_the_newest_first(admin: Admin) -> None:
    key_id = (await admin.new_key(expires_at="2990-01-01"))["id"]
    await admin.ask("PATCH", f"/keys/{key_id}", json={"limits": {"rpm": 1}, "expires_at": None})

    newest, created = (await admin.ask("GET", f"/audit?subject={key_id}")).json()["data"]

    assert (newest["actor"], newest["action"], created["action"]) == (
        "admin",
        "key.update",
        "key.create",
    )
    assert (newest["before"]["limits"], newest["after"]["limits"]) == ({}, {"rpm": 1})
    assert newest["before"]["expires_at"] == "2990-01-01T00:00:00Z"
    assert created["before"] is None
    page = (await admin.ask("GET", "/audit?limit=1")).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([newest["id"]], True)
    rest = (await admin.ask("GET", f"/audit?after={newest['id']}")).json()
    assert [one["action"] for one in rest["data"]] == ["key.create", "team.create"]


async def test_models_are_shown_with_what_stands_behind_them(admin: Admin) -> None:
    models = (await admin.ask("GET", "/models")).json()["data"]
    assert [model["id"] for model in models] == ["openai/model", "hf/model", "tgi/model"]
    assert models[1]["targets"] == [
        {"upstream": "hf", "dialect": "hf", "model": "hf/model", "weight": 1.0, "state": "cold"}
    ]
    assert models[1]["price"]["input_usd_per_million"] == "0.00"
    assert (models[1]["aliases"], models[1]["state"]) == (["alias-hf"], "cold")


async def test_openapi_describes_what_is_asked(admin: Admin) -> None:
    document = json.loads(json.dumps(admin.app.openapi_schema.to_schema()))
    paths = document["paths"]
    body = paths["/admin/keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(FULL)
    assert set(FULL["limits"]) <= set(body["properties"]["limits"]["properties"])  # type: ignore[call-overload]
    listing = {one["name"]: one for one in paths["/admin/keys"]["get"]["parameters"]}
    assert set(listing) == {"team", "limit", "after"}
    assert listing["limit"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "default": 100,
    }
    patch = paths["/admin/keys/{key_id}"]["patch"]
    assert [one["name"] for one in patch["parameters"]] == ["key_id"]
    assert patch["summary"]
