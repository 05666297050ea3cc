from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, Response, Router, get
from litestar.types import Guard

from gateway import protocol
from gateway.book import Book
from gateway.doorman import require_admin, require_key
from gateway.errors import GatewayError
from gateway.keyring import Keyring
from gateway.keys import first_run, generate, generate_admin
from gateway.throttle import Throttle
from tests.gateway.fake_book import PEPPER, Clock, FakeBook
from tests.gateway.running import connected, envelope, request_head, serving, unstarted_gateway
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

KEY = generate()
HERE, THERE = "192.0.2.1", "192.0.2.2"
FORMS: dict[str, Callable[[str], dict[str, str]]] = {
    "OpenAI's": lambda key: {"authorization": f"Bearer {key}"},
    "in capitals": lambda key: {"authorization": f"BEARER  {key} "},
    "Azure's": lambda key: {"api-key": key},
    "Anthropic's": lambda key: {"x-api-key": key},
}


def knocking(guard: Guard) -> Callable[[str, str], Awaitable[object]]:
    """Return what shows a key to `guard` from an address: who came in, or the status."""

    async def knock(key: str, address: str) -> object:
        headers = [(b"authorization", f"Bearer {key}".encode())]
        scope = {"type": "http", "headers": headers, "client": (address, 1)}
        try:
            await guard(SimpleNamespace(scope=scope), None)  # type: ignore[arg-type, misc]
        except GatewayError as error:
            return error.status
        return scope["user"]

    return knock


def client_of(guards: dict[str, Guard], *, address: str = HERE) -> httpx.AsyncClient:
    """Return a client of an application whose routes tell who came in."""

    @get("/")
    async def who(request: Request[Any, Any, Any]) -> dict[str, str]:
        return {"user": getattr(request.user, "id", request.user)}

    def answer(_: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
        return Response(error.body(), status_code=error.status, headers=error.headers)

    app = Litestar(
        [Router(path, guards=[guard], route_handlers=[who]) for path, guard in guards.items()],
        exception_handlers={GatewayError: answer},
        logging_config=None,
        openapi_config=None,
    )
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_ten_thousand_unknown_keys_from_one_address_concern_nobody_else() -> None:
    book, clock = FakeBook(KEY), Clock()
    other = generate()
    book.add([other])
    ring = Keyring(book, PEPPER, clock=clock, now=clock)
    await ring.refresh()
    known = await ring.authenticate(KEY.text)
    slept: list[float] = []
    wake = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await wake.wait()

    knock = knocking(require_key(ring, throttle=Throttle(clock=clock, sleep=sleep)))
    flood = [asyncio.ensure_future(knock(generate().text, HERE)) for _ in range(10_000)]
    while len(slept) < 32:  # noqa: ASYNC110 (each turn of the loop is a step of the flood)
        await asyncio.sleep(0)

    assert await knock(KEY.text, HERE) is known
    assert getattr(await knock(other.text, THERE), "id", None) == other.id
    assert await knock(generate().text, THERE) == 401
    assert await knock(generate().text, HERE) == 429
    wake.set()
    answers = await asyncio.gather(*flood)

    assert answers.count(401) + answers.count(429) == 10_000
    assert answers.count(401) <= 20 + 7 + 32
    assert book.asked == answers.count(401) + 3


async def test_malformed_keys_count_and_no_key_at_all_does_not() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    guard = require_key(Keyring(FakeBook(), PEPPER), throttle=Throttle(clock=Clock(), sleep=sleep))
    knock = knocking(guard)
    assert [await knock("sk-nonsense", HERE) for _ in range(20)] == [401] * 20
    assert [await knock("", HERE) for _ in range(100)] == [401] * 100
    assert slept == []

    assert await knock("sk-nonsense", HERE) == 401

    assert slept == [0.2]


async def test_who_is_turned_away_is_told_when_to_come_again() -> None:
    async def sleep(_: float) -> None:
        await asyncio.Event().wait()

    guard = require_key(Keyring(FakeBook(), PEPPER), throttle=Throttle(sleep=sleep))
    wrong = {"api-key": "sk-nonsense"}
    async with client_of({"/v1": guard}) as client:
        for _ in range(20):
            await client.get("/v1", headers=wrong)
        flood = [asyncio.create_task(client.get("/v1", headers=wrong)) for _ in range(33)]
        done, held = await asyncio.wait(flood, return_when="FIRST_COMPLETED")
        for one in held:
            one.cancel()
        await asyncio.wait(held)

    (answer,) = [one.result() for one in done]
    error = envelope(answer.content)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    book = await Book.open(tmp_path)
    yield book
    await book.aclose()


@pytest.mark.parametrize("give", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("env", [{}, {"DRAGOMAN_ADMIN_KEY": "open sesame"}], ids=["stored", "set"])
async def test_the_admin_key_in_any_of_the_usual_headers_opens_admin(
    book: Book, give: Callable[[str], dict[str, str]], env: dict[str, str]
) -> None:
    made = await first_run(book, PEPPER)
    assert made is not None
    key = env.get("DRAGOMAN_ADMIN_KEY", made.admin_key)
    async with client_of({"/admin": require_admin(book, PEPPER, env=env)}) as client:
        for _ in range(2):
            answer = await client.get("/admin", headers=give(key))
            assert (answer.status_code, answer.json()) == (200, {"user": "admin"})


WRONG = {
    "none": ("", "You didn't provide the admin key"),
    "another": (generate_admin(), "Incorrect admin key provided."),
    "a word": ("open", "Incorrect admin key provided."),
    "an API key": (KEY.text, "this is an API key, which opens /v1 only"),
}


@pytest.mark.parametrize(("key", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "env",
    [{}, {"DRAGOMAN_ADMIN_KEY": "open sesame"}, {"DRAGOMAN_ADMIN_KEY": KEY.text}],
    ids=["stored", "set", "set to an API key"],
)
async def test_nothing_else_opens_admin(
    book: Book, key: str, words: str, env: dict[str, str]
) -> None:
    await first_run(book, PEPPER)
    async with client_of({"/admin": require_admin(book, PEPPER, env=env)}) as client:
        answer = await client.get("/admin", headers={"authorization": f"Bearer {key}"})
    check_refusal(answer, code="invalid_admin_key", words=words)
    assert key not in answer.text or not key


async def test_the_stored_admin_key_is_out_of_force_while_another_is_set(book: Book) -> None:
    made = await first_run(book, PEPPER)
    assert made is not None
    guard = require_admin(book, PEPPER, env={"DRAGOMAN_ADMIN_KEY": "open sesame"})
    async with client_of({"/admin": guard}) as client:
        answer = await client.get("/admin", headers={"api-key": made.admin_key})
    check_refusal(answer, code="invalid_admin_key", words="Incorrect admin key provided.")


async def test_a_key_that_has_opened_admin_does_so_only_while_it_is_in_force(book: Book) -> None:
    env = {"DRAGOMAN_ADMIN_KEY": "open sesame"}
    knock = knocking(require_admin(book, PEPPER, env=env))
    assert await knock("open sesame", HERE) == "admin"

    env["DRAGOMAN_ADMIN_KEY"] = "open barley"

    assert await knock("open sesame", HERE) == 401
    assert await knock("open barley", HERE) == "admin"


@pytest.mark.parametrize("key", ["", generate_admin()], ids=["none", "another"])
async def test_a_gateway_without_admin_key_tells_how_to_set_one(book: Book, key: str) -> None:
    async with client_of({"/admin": require_admin(book, PEPPER, env={})}) as client:
        answer = await client.get("/admin", headers={"api-key": key})
    check_refusal(answer, code="invalid_admin_key", words="Set DRAGOMAN_ADMIN_KEY")


async def test_the_admin_key_does_not_open_the_apis_door(book: Book) -> None:
    made = await first_run(book, PEPPER)
    assert made is not None
    async with client_of({"/v1": require_key(Keyring(book, PEPPER))}) as client:
        answer = await client.get("/v1", headers={"api-key": made.admin_key})
        check_refusal(answer, code="invalid_api_key", words="admin key, which opens /admin only")
        answer = await client.get("/v1", headers={"api-key": made.key.text})
        assert answer.json() == {"user": made.key.id}


async def test_guessing_the_admin_key_is_slowed_and_does_not_keep_the_admin_out(
    book: Book,
) -> None:
    wake = asyncio.Event()

    async def sleep(_: float) -> None:
        await wake.wait()

    env = {"DRAGOMAN_ADMIN_KEY": "open sesame"}
    knock = knocking(require_admin(book, PEPPER, throttle=Throttle(sleep=sleep), env=env))
    assert await knock("open sesame", HERE) == "admin"
    guesses = [asyncio.ensure_future(knock(f"open {number}", HERE)) for number in range(1_000)]
    await asyncio.wait(guesses, return_when="FIRST_COMPLETED")

    while await knock("open up", HERE) != 429:
        pass
    assert await knock("open sesame", HERE) == "admin"
    assert await knock("open up", THERE) == 401
    wake.set()

    answers = await asyncio.gather(*guesses)
    assert answers.count(401) <= 20 + 7 + 32
    assert answers.count(429) == 1_000 - answers.count(401)


def check_refusal(answer: httpx.Response, *, code: str, words: str) -> None:
    error = envelope(answer.content)
    assert (answer.status_code, error["code"]) == (401, code)
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_after_a_401_a_body_is_cut_off_only_if_it_drips_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_LINGER_SECONDS", 2.0)
    head = request_head("wrong", content_length=300_000)
    async with (
        unstarted_gateway(tmp_path) as gateway,
        serving(gateway.app) as port,
        connected(port) as quick,
        connected(port) as slow,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        for client in (quick, slow):
            await client.send(head)
            assert (await client.answer()).status == 401
        await quick.send(b" " * 300_000)
        await slow.send(b" ")

        assert await slow.is_closed()

        await quick.send(head)
        assert (await quick.answer()).status == 401
