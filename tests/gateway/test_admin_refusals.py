"""What the admin API does not take, field by field: never a 500, never a change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.book import KeyOptions
from tests.gateway.admin_app import Admin, administered, refusal
from tests.gateway.running import envelope
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an empty book, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path_factory.mktemp('data') / 'book.sqlite3'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.create_database())


@pytest.fixture(scope="module")
async def refusing(shared_url: str) -> AsyncIterator[Admin]:
    """An application for requests that change nothing, with the team `red` and the key `KEY`."""
    async with administered(shared_url) as made:
        await made.ask("POST", "/teams", json={"name": "red"})
        await made.book.create_key("KEY", b"digest", options=KeyOptions(name="bob", team="red"))
        changes = len(await made.book.audit())
        yield made
        assert len(await made.book.audit()) == changes


DEEP = "[" * 300 + "]" * 300
BAD_FIELDS: list[tuple[str, Any]] = [
    *(("name", bad) for bad in (None, "", "  ", 1, [], {}, True, "x" * 201, "a\nb", "a\x00b")),
    *(("team", bad) for bad in ("nope", "", 1, [], "a/b", "..", "x" * 201, "a\x00")),
    *(("models", bad) for bad in ("hf/*", 1, {}, [1], [None], [""], ["nope*"], ["hf/*", "zz"])),
    ("models", ["hf/*"] * 101),
    *(("limits", bad) for bad in (1, "x", [], True)),
    *(("limits.rpm", bad) for bad in (-1, 1.0, 1.5, "5", True, [], {}, 10**13, 10**400, 1e300)),
    *(("limits.tpm_burst", bad) for bad in (1, -1, "1")),
    *(("limits.usd_per_month", bad) for bad in (-1, -0.5, "x", "", "NaN", "inf", True, [], {})),
    *(("limits.usd_per_month", bad) for bad in (1_000_001, 1e300, 1e-10, "0." + "1" * 10)),
    *(("limits.usd_per_month", bad) for bad in ("1e3", "1_000", " 1", "٣", "1" * 5000)),
    ("limits.nope", 1),
    *(("metadata", bad) for bad in (1, "x", [], True, {"a": "x" * 16_384})),
    *(("expires_at", bad) for bad in (1, True, [], "", "soon", "2020-01-01", "2030-13-01")),
    *(("expires_at", bad) for bad in ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59")),
    *((bad, 1) for bad in ("nope", "id", "key", "state", "created_at", "limits ", "é" * 300)),
]


def body_of(field: str, value: Any) -> dict[str, Any]:
    outer, _, inner = field.partition(".")
    return {"name": "a", outer: {inner: value} if inner else value}


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS, ids=lambda one: repr(one)[:30])
async def test_a_wrong_field_of_a_key_is_named(refusing: Admin, field: str, value: Any) -> None:
    for method, path in (("POST", "/keys"), ("PATCH", "/keys/KEY")):
        found = await refusal(refusing, method, path, json=body_of(field, value))
        assert found[:2] == (400, field[:200])


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("field", "value"),
    [one for one in BAD_FIELDS if one[0].startswith(("limits", "metadata", "nope"))],
    ids=lambda one: repr(one)[:30],
)
async def test_a_wrong_field_of_a_team_is_named(
    refusing: Admin, method: str, field: str, value: Any
) -> None:
    body = body_of(field, value)
    path = "/teams"
    if method == "PATCH":
        del body["name"]
        path = "/teams/red"
    assert (await refusal(refusing, method, path, json=body))[:2] == (400, field)


@pytest.mark.parametrize("name", [None, "", 1, "a/b", ".", "x" * 201, "a\tb"])
async def test_a_wrong_name_of_a_team_is_refused(refusing: Admin, name: object) -> None:
    assert (await refusal(refusing, "POST", "/teams", json={"name": name}))[:2] == (400, "name")


async def test_a_missing_name_is_told(refusing: Admin) -> None:
    for path in ("/keys", "/teams"):
        for options in ({"json": {}}, {}):
            assert await refusal(refusing, "POST", path, **options) == (
                400,
                "name",
                "missing_required_parameter",
            )


async def test_a_key_stays_in_its_team_and_a_team_keeps_its_name(refusing: Admin) -> None:
    for path, field in (("/keys/KEY", "team"), ("/teams/red", "name")):
        assert (await refusal(refusing, "PATCH", path, json={field: "red"}))[:2] == (400, field)
    answer = await refusing.ask("PATCH", "/keys/KEY", json={"team": None})
    assert "make a new key" in envelope(answer.content)["message"]


async def test_a_glob_without_a_model_is_told_with_the_models(refusing: Admin) -> None:
    answer = await refusing.ask("POST", "/keys", json={"name": "a", "models": ["gpt-*"]})
    message = envelope(answer.content)["message"]
    assert "'gpt-*'" in message
    assert "openai/model, alias-openai, hf/model" in message


BODIES = [b"{", b"[1]", b"1", b"null", b'"a"', b"\xff", b'{"name": NaN}', DEEP.encode(), b"{}x"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
async def test_a_body_that_is_no_json_object_is_refused(refusing: Admin, body: bytes) -> None:
    for method, path in (
        ("POST", "/keys"),
        ("PATCH", "/keys/KEY"),
        ("POST", "/keys/KEY/rotate"),
        ("POST", "/keys/KEY/revoke"),
        ("POST", "/teams"),
        ("PATCH", "/teams/red"),
    ):
        headers = {"content-type": "application/json"}
        status, _, code = await refusal(refusing, method, path, content=body, headers=headers)
        assert (status, code) in ((400, "invalid_json"), (400, "invalid_type"))


@pytest.mark.parametrize("text", [b'{"name":"a","metadata":{"a":1e999}}', b'{"name":"\\ud800"}'])
async def test_json_that_cannot_be_kept_is_refused(refusing: Admin, text: bytes) -> None:
    assert (await refusal(refusing, "POST", "/keys", content=text))[0] == 400


async def test_a_body_that_is_too_long_or_no_json_is_refused(refusing: Admin) -> None:
    assert (await refusal(refusing, "POST", "/keys", content=b" " * 70_000))[0] == 413
    assert (await refusal(refusing, "POST", "/keys", data={"name": "a"}))[0] == 415


@pytest.mark.parametrize("value", [-1, 0.5, "60", True, None, 10**9, []])
async def test_a_wrong_grace_is_refused(refusing: Admin, value: object) -> None:
    body = {"json": {"grace_seconds": value}}
    assert (await refusal(refusing, "POST", "/keys/KEY/rotate", **body))[:2] == (
        400,
        "grace_seconds",
    )


@pytest.mark.parametrize("end", ["/rotate", "/revoke"])
async def test_an_unknown_field_of_an_action_is_refused(refusing: Admin, end: str) -> None:
    assert await refusal(refusing, "POST", f"/keys/KEY{end}", json={"grace": 1}) == (
        400,
        "grace",
        "unknown_parameter",
    )


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("/keys?limit=0", "limit"),
        ("/keys?limit=1001", "limit"),
        ("/keys?limit=-1", "limit"),
        ("/keys?limit=1.5", "limit"),
        ("/keys?limit=%D9%A3", "limit"),
        ("/keys?limit=", "limit"),
        (f"/keys?limit={'9' * 5000}", "limit"),
        ("/keys?limit=1&limit=2", "limit"),
        ("/keys?team=", "team"),
        ("/keys?team=a%00", "team"),
        ("/keys?after=" + "x" * 300, "after"),
        ("/keys?nope=1", "nope"),
        ("/keys/x?nope=1", "nope"),
        ("/teams?limit=1", "limit"),
        ("/models?x", "x"),
        ("/audit?limit=0", "limit"),
        ("/audit?after=x", "after"),
        (f"/audit?after={2**63}", "after"),
        ("/audit?key=1", "key"),
        ("/usage?by=nope", "by"),
        ("/usage?by=", "by"),
        ("/usage?by=key,key", "by"),
        ("/usage?format=xml", "format"),
        ("/usage?since=soon", "since"),
        ("/usage?since=99999999999d", "since"),
        (f"/usage?since={'9' * 5000}", "since"),
        ("/usage?until=1969-12-31", "until"),
        ("/usage?since=2026-01-02&until=2026-01-02", "until"),
        ("/usage?since=2026-01-01T00:00:00+02:00", "since"),  # a plus is a space
        ("/usage?limit=5", "limit"),
    ],
)
async def test_a_wrong_query_is_named(refusing: Admin, query: str, param: str) -> None:
    assert (await refusal(refusing, "GET", query))[:2] == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/keys/nope", "key_not_found"),
        ("PATCH", "/keys/nope", "key_not_found"),
        ("DELETE", "/keys/nope", "key_not_found"),
        ("POST", "/keys/nope/rotate", "key_not_found"),
        ("POST", "/keys/nope/revoke", "key_not_found"),
        ("GET", "/keys?after=nope", "key_not_found"),
        ("GET", "/usage?key=nope", "key_not_found"),
        ("GET", "/keys/%00", "key_not_found"),
        ("POST", "/keys/a%00/rotate", "key_not_found"),
        ("GET", "/teams/%00", "team_not_found"),
        ("GET", "/usage?team=nope", "team_not_found"),
        ("GET", "/teams/nope", "team_not_found"),
        ("PATCH", "/teams/nope", "team_not_found"),
    ],
)
async def test_what_is_not_there_is_a_404(
    refusing: Admin, method: str, path: str, code: str
) -> None:
    assert await refusal(refusing, method, path) == (404, None, code)
