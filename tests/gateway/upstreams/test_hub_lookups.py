"""What is asked of the Hub, what is made of its word, and how long that is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from adapters.transport import Transport
from gateway.config import ConfigError, Settings
from gateway.errors import GatewayError
from gateway.keys import Caller
from gateway.upstreams.hub import HubModels
from gateway.upstreams.target import Model
from gateway.upstreams.trips import Trips
from tests.gateway.upstreams.fake_hub import TOKEN, FakeHub, model, reply
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

ANYONE = Caller(id="Ab3dEf9h", name="test")
CHAT = "conversational"
LLM = model(
    "org/llm",
    "text-generation",
    ("groq", "llm-8b", CHAT),
    ("together", "org/llm-Turbo", CHAT),
    ("featherless-ai", "org/llm", "text-generation"),
)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Library:
    """The Hub's models as one gateway knows them."""

    hub: FakeHub
    server: Upstream
    models: HubModels
    clock: Clock

    async def find(self, name: str, caller: Caller = ANYONE) -> Model | None:
        return await self.models.find(name, caller)

    async def ways(self, name: str) -> list[tuple[str, str]]:
        found = await self.find(name)
        assert found is not None
        return [(target.upstream.name, target.model) for target in found.targets]


@pytest.fixture
async def library(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Library]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub, clock = FakeHub(), Clock()
    hub.models["org/llm"] = LLM
    async with Upstream(hub) as server, Transport() as transport:
        settings = Settings.model_validate({"hub": {"enabled": True, "url": server.url}})
        async with HubModels(settings, transport, clock=clock) as models:
            yield Library(hub, server, models, clock)


async def failure(library: Library, name: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await library.find(name)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o",
        "org/llm/more",
        "org/../api",
        "org/a--b",
        "/llm",
        "org/",
        "org/.llm",
        "org/llm?x=1",
        "org/llm#x",
        "org/llm%2f",
        "org/läufer",
        "org/llm:Groq",
        "org/llm:",
        "org/" + "a" * 97,
        "org/llm\n",
        "org/llm\r\nhost: x",
    ],
)
async def test_what_can_be_no_id_is_not_asked_for(library: Library, name: str) -> None:
    assert await library.find(name) is None
    assert library.models.known(name, ANYONE) is None
    assert library.hub.asked == []


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("org/llm", [("hub.auto", "org/llm"), ("hub.featherless-ai", "org/llm")]),
        ("org/llm:fastest", [("hub.auto", "org/llm:fastest")]),
        ("org/llm:cheapest", [("hub.auto", "org/llm:cheapest")]),
        ("org/llm:preferred", [("hub.auto", "org/llm:preferred")]),
        ("org/llm:groq", [("hub.groq", "llm-8b")]),
        ("org/llm:together", [("hub.together", "org/llm-Turbo")]),
    ],
)
async def test_who_is_asked_for_a_chat(
    library: Library, name: str, ways: list[tuple[str, str]]
) -> None:
    assert await library.ways(name) == ways


@pytest.mark.parametrize("choice", ["novita", "fastest"])
async def test_a_choice_that_a_model_does_not_have_is_named(library: Library, choice: str) -> None:
    library.hub.models["org/flux"] = model(
        "org/flux", "text-to-image", ("fal-ai", "fal-ai/flux/dev", "text-to-image")
    )
    error = await failure(library, f"org/flux:{choice}")
    assert (error.status, error.code) == (404, "model_not_found")
    assert f"{choice!r} does not serve it" in error.message


@pytest.mark.parametrize(
    ("tag", "by", "task"),
    [
        ("text-generation", CHAT, "chat"),
        ("image-text-to-text", CHAT, "chat"),
        (None, CHAT, "chat"),
        ("text-to-image", "text-to-image", "image"),
        ("text-to-speech", "text-to-speech", "speech"),
        ("text-to-audio", "text-to-audio", "speech"),
        ("feature-extraction", "feature-extraction", "embedding"),
        ("sentence-similarity", "sentence-similarity", "embedding"),
        ("automatic-speech-recognition", "automatic-speech-recognition", "transcription"),
        ("fill-mask", "fill-mask", "pipeline"),
    ],
)
async def test_a_models_task_is_told_by_its_tag(
    library: Library, tag: str | None, by: str, task: str
) -> None:
    library.hub.models["org/x"] = model("org/x", tag, ("hf-inference", "org/x", by))
    found = await library.find("org/x")
    assert found is not None
    assert (found.task, len(found.targets)) == (task, 1)


async def test_an_offer_of_another_task_is_not_taken_up(library: Library) -> None:
    library.hub.models["org/x"] = model(
        "org/x",
        "text-to-image",
        ("fal-ai", "x", "text-to-image"),
        ("together", "x", "feature-extraction"),
        ("nscale", "x", "image-to-image"),
        ("zai-org", "x", "text-to-image"),
    )
    assert await library.ways("org/x") == [("hub.fal-ai", "x")]


@pytest.mark.parametrize("status", ["staging", "error"])
async def test_an_offer_that_is_not_live_is_not_taken_up(library: Library, status: str) -> None:
    entry = {"status": status, "providerId": "x", "task": CHAT}
    library.hub.models["org/x"] = {"id": "org/x", "inferenceProviderMapping": {"groq": entry}}
    error = await failure(library, "org/x")
    assert (error.status, error.code) == (404, "model_not_found")
    assert "no provider that can be asked here serves it" in error.message


async def test_offers_may_come_as_a_list(library: Library) -> None:
    entry = {"provider": "groq", "status": "live", "providerId": "g", "task": CHAT}
    library.hub.models["org/x"] = {"id": "org/x", "inferenceProviderMapping": [entry]}
    assert await library.ways("org/x:groq") == [("hub.groq", "g")]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        ("401 Unauthorized", {"x-error-code": "GatedRepo"}, (403, "model_gated")),
        ("403 Forbidden", {}, (403, "model_gated")),
        ("401 Unauthorized", {}, (502, "upstream_misconfigured")),
        ("410 Gone", {}, (502, "upstream_misconfigured")),
        ("429 Too Many Requests", {"retry-after": "30"}, (429, "rate_limit_exceeded")),
        ("500 ISE", {}, (502, "upstream_error")),
        ("503 Service Unavailable", {}, (503, "upstream_overloaded")),
    ],
)
async def test_what_the_hub_refuses_is_told_apart_and_not_asked_again(
    library: Library, status: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    told = {"error": f"Invalid credentials: {TOKEN}"}
    library.hub.models["org/x"] = reply(told, status=status, headers=headers)
    for _ in range(2):
        error = await failure(library, "org/x")
        assert (error.status, error.code) == expected
        assert TOKEN not in error.message
    assert library.hub.asked == ["org/x"]


@pytest.mark.parametrize(
    ("status", "headers"), [("404 NF", {}), ("401 U", {"x-error-code": "RepoNotFound"})]
)
async def test_a_model_that_is_missing_is_not_asked_for_again_for_a_minute(
    library: Library, status: str, headers: dict[str, str]
) -> None:
    library.hub.models["org/x"] = reply({"error": "x"}, status=status, headers=headers)
    assert await library.find("org/x") is None
    library.clock.now += 59
    assert await library.find("org/x") is None
    assert library.hub.asked == ["org/x"]
    library.clock.now += 2
    library.hub.models["org/x"] = LLM
    assert await library.find("org/x") is not None


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"id": 5}', b'{"id": "x", "gated": []}', b"\xff"]
)
async def test_an_answer_that_cannot_be_read_is_the_hubs_failure(
    library: Library, body: bytes
) -> None:
    library.hub.models["org/x"] = reply(body)
    error = await failure(library, "org/x")
    assert (error.status, error.code) == (502, "upstream_error")


async def test_a_hub_that_hangs_up_is_no_missing_model(library: Library) -> None:
    async def hang_up(visit: Visit) -> None:
        visit.reset()

    library.server.play(hang_up)
    error = await failure(library, "org/llm")
    assert (error.status, error.code) == (502, "upstream_error")
    assert await failure(library, "org/llm")
    assert len(library.server.visits) == 1


async def test_a_model_that_was_renamed_is_found_by_its_old_id(library: Library) -> None:
    library.hub.models["old/llm"] = reply(
        b"", status="307 Temporary", headers={"location": "/api/models/org/llm?expand=gated"}
    )
    found = await library.find("old/llm")
    assert found is not None
    assert (found.id, found.targets[0].model) == ("old/llm", "org/llm")


@pytest.mark.parametrize(
    "location",
    ["https://evil.example/x", "/api/whoami-v2", "/api/models/../whoami-v2", "//[", "org/llm", ""],
)
async def test_the_hub_sends_nobody_anywhere_else(library: Library, location: str) -> None:
    library.hub.models["old/llm"] = reply(b"", status="307 T", headers={"location": location})
    assert await library.find("old/llm") is None
    assert library.hub.asked == ["old/llm"]


async def test_those_who_ask_at_the_same_time_share_one_look_up(library: Library) -> None:
    gate = asyncio.Event()

    async def late(visit: Visit) -> None:
        await gate.wait()
        await visit.send(reply(LLM))

    library.server.play(late)
    asking = [asyncio.create_task(library.find("org/llm")) for _ in range(5)]
    await library.server.arrival()
    asking[0].cancel()
    gate.set()
    first, *others = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(others[0], Model)
    assert all(found is others[0] for found in others)
    assert len(library.server.visits) == 1


async def test_a_model_stays_the_same_while_the_hub_says_the_same(library: Library) -> None:
    before = await library.find("org/llm")
    library.clock.now += 3601
    assert await library.find("org/llm") is before
    await library.models.settled()
    assert await library.find("org/llm") is before
    assert len(library.hub.asked) == 2


async def test_what_the_hub_says_anew_counts_from_then_on(library: Library) -> None:
    await library.find("org/llm")
    library.hub.models["org/llm"] = model(
        "org/llm", "text-to-image", ("fal-ai", "x", "text-to-image")
    )
    library.clock.now += 3601
    await library.find("org/llm")
    await library.models.settled()
    assert await library.ways("org/llm") == [("hub.fal-ai", "x")]


async def test_a_model_stays_while_the_hub_is_away(library: Library) -> None:
    before = await library.find("org/llm")
    library.hub.models["org/llm"] = reply({"error": "x"}, status="500 ISE")
    library.clock.now += 3601
    await library.find("org/llm")
    await library.models.settled()
    library.clock.now += 59
    assert await library.find("org/llm") is before
    assert len(library.hub.asked) == 2


async def test_a_model_goes_when_the_hub_says_so(library: Library) -> None:
    await library.find("org/llm")
    del library.hub.models["org/llm"]
    library.clock.now += 3601
    await library.find("org/llm")
    await library.models.settled()
    assert await library.find("org/llm") is None


async def test_memory_is_bounded(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstreams.hub._MOST_REMEMBERED", 3)
    for at in range(5):
        await library.find(f"org/nothing-{at}")
    await library.find("org/nothing-4")
    assert len(library.hub.asked) == 5
    await library.find("org/nothing-0")
    assert len(library.hub.asked) == 6


async def test_known_models_cost_no_trips(library: Library) -> None:
    for _ in range(30):
        library.clock.now += 3601
        assert await library.find("org/llm") is not None


async def test_a_caller_that_invents_names_has_to_wait(library: Library) -> None:
    for at in range(20):
        await library.find(f"org/invented-{at}")
    error = await failure(library, "org/one-more")
    assert (error.status, error.headers["retry-after"]) == (429, "3")
    assert await library.find("org/llm", Caller(id="other", name="other")) is not None
    library.clock.now += 3
    assert await library.find("org/one-more") is None


async def test_names_that_were_invented_before_count_again(library: Library) -> None:
    for _ in range(3):
        for at in range(15):
            await library.find(f"org/invented-{at}")
        library.clock.now += 61
    assert len(library.hub.asked) == 45
    for at in range(15):
        await library.find(f"org/invented-{at}")
    with pytest.raises(GatewayError):
        for at in range(15, 30):
            await library.find(f"org/invented-{at}")


def test_many_callers_together_have_a_bound_too() -> None:
    trips = Trips(clock=Clock())
    taken = [trips.take(f"caller-{at}") for at in range(120)]
    assert taken.count(0) == 100
    assert all(0 < seconds <= 1 for seconds in taken[100:])


def test_a_gateway_that_is_to_ask_the_hub_needs_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"^hub\.api_key_env: the variable HF_TOKEN is not set$"):
        HubModels(Settings.model_validate({"hub": {"enabled": True}}), Transport())


async def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    async with Transport() as transport:
        with pytest.raises(ConfigError, match=r"^hub\.url or HF_ENDPOINT: ") as caught:
            HubModels(Settings.model_validate({"hub": {"enabled": True}}), transport)
    assert TOKEN not in str(caught.value)
