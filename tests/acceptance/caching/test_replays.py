"""What is kept comes again as it was, in any form it is asked for; what is not whole is not."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import re
import time

import httpx
import openai
import pytest
from PIL import Image

from gateway.cache.files import FOLDER
from tests.acceptance.caching.answers import (
    CHAT,
    IMAGES,
    REPEATABLE,
    STREAM,
    Counter,
    amounts,
    anonymous,
    begun,
    counting_upstream,
    delta,
    event,
    status_of,
    streamed,
    visits_of,
    whole,
    with_headers,
)
from tests.acceptance.caching.conftest import StartGateway
from tests.acceptance.metering.customer import Customer
from tests.acceptance.metering.exchange_kinds import KINDS, Json, Kind
from tests.acceptance.metering.pace import asking
from tests.acceptance.recordings import LAST_CHUNK
from tests.gateway.image_route.painting import as_json, http, painting
from tests.metered import Metered
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Player, Upstream, Visit

pytestmark = pytest.mark.anyio

ID = re.compile(rb'"id":"((?:chatcmpl|cmpl)-[^"]+)"')
OWN = ("id", "created")
OPEN: Json = {"unseeded": True, "charge": "full"}
PAUSE_SECONDS, PAUSES = 0.3, 2


@pytest.mark.parametrize("name", KINDS)
async def test_a_hit_is_the_miss_byte_for_byte_but_for_id_and_created(
    gateway_with: StartGateway, upstream: Upstream, name: str
) -> None:
    kind = REPEATABLE[name]
    customer = await Customer.of(await gateway_with(**OPEN))
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        miss, hit = await kind.ask(client), await kind.ask(client)
    assert (status_of(miss), status_of(hit)) == ("miss", "hit")
    assert len(upstream.visits) == len(visits_of(kind))
    assert anonymous(hit.content) == anonymous(miss.content) != b""
    assert hit.headers["content-type"] == miss.headers["content-type"]
    assert hit.headers["etag"] == miss.headers["etag"]
    assert "age" not in miss.headers
    assert 0 <= int(hit.headers["age"]) < 60
    records = await customer.records()
    assert sorted(record["cached"] for record in records) == [False, True]
    assert [amounts(record) for record in records] == [kind.used[-1]] * 2


@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
async def test_every_answer_has_an_id_of_its_own(
    customer: Customer, upstream: Upstream, kind: Kind
) -> None:
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        answers = [await kind.ask(client) for _ in range(3)]
    named = [set(ID.findall(answer.content)) for answer in answers]
    assert [len(ids) for ids in named] == [1, 1, 1]
    assert len(set.union(*named)) == 3


# One answer that holds all that answers can hold, as a stream and as a whole.
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]}
CALL = {"id": "call_1", "type": "function"}
DELTAS: list[Json] = [
    delta(role="assistant", content=""),
    delta(1, role="assistant", content=""),
    delta(reasoning_content="Hm"),
    delta(1, content="An", logprobs=None),
    delta(reasoning_content="."),
    delta(content="Hi", logprobs=LOGPROBS),
    delta(1, content="other."),
    delta(tool_calls=[{"index": 0, **CALL, "function": {"name": "look", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"at": '}}]),
    delta(1, "stop"),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"sky"}'}}]),
    delta(reason="tool_calls"),
]
CHOICES: list[Json] = [
    {
        "message": {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": "Hi",
            "tool_calls": [{**CALL, "function": {"name": "look", "arguments": '{"at": "sky"}'}}],
        },
        "logprobs": LOGPROBS,
        "finish_reason": "tool_calls",
    },
    {"message": {"role": "assistant", "content": "Another."}, "finish_reason": "stop"},
]
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
RICH: Json = {"n": 2, "logprobs": True, "tools": [LOOK]}
SPOKEN: Json = CHAT.having(**RICH).request["json"]


async def both_forms(visit: Visit) -> None:
    await visit.send(streamed(*DELTAS) if visit.body.get("stream") else whole(*CHOICES))


async def accumulated(customer: Customer) -> Json:
    """Return what the official SDK makes of the stream."""
    async with sdk(customer) as client, client.chat.completions.stream(**SPOKEN) as events:
        completion = await events.get_final_completion()
    return completion.to_dict()


def sdk(customer: Customer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=customer.key, base_url=customer.metered.base_url, max_retries=0
    )


@pytest.fixture
async def other(metered: Metered) -> Customer:
    """Another key, which shares nothing with `customer`."""
    return await Customer.of(metered)


async def test_a_plain_request_after_a_stream_gets_the_whole_that_it_would_have_got(
    customer: Customer, other: Customer, upstream: Upstream
) -> None:
    upstream.play(both_forms)
    plain, stream = CHAT.having(**RICH), STREAM.having(**RICH)
    async with other.client() as client:
        expected = await plain.ask(client)
    async with customer.client() as client:
        statuses = status_of(await stream.ask(client)), status_of(hit := await plain.ask(client))
    assert (status_of(expected), *statuses) == ("miss", "miss", "hit")
    assert without(hit.json(), OWN) == without(expected.json(), OWN)


async def test_a_stream_after_a_plain_request_accumulates_to_what_was_kept(
    customer: Customer, other: Customer, upstream: Upstream
) -> None:
    upstream.play(both_forms)
    expected = await accumulated(other)
    async with customer.client() as client:
        plain = (await CHAT.having(**RICH).ask(client)).json()
    streamed_after = await accumulated(customer)
    assert len(upstream.visits) == 2  # one for each key
    assert without(streamed_after, OWN) == without(expected, OWN)
    told = [meaning(choice) for choice in streamed_after["choices"]]
    assert told == [meaning(choice) for choice in plain["choices"]]


def meaning(choice: Json) -> Json:
    """Return what a choice says, without what the SDK adds to it."""
    message = choice["message"]
    calls = message.get("tool_calls") or []
    return {
        "said": (message["content"], message.get("reasoning_content")),
        "calls": [
            (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
        ],
        "logprobs": choice["logprobs"] and choice["logprobs"]["content"],
        "finish_reason": choice["finish_reason"],
    }


def without(answer: Json, names: tuple[str, ...]) -> Json:
    return {name: value for name, value in answer.items() if name not in names}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_more_images_of_a_seed_begin_with_those_that_are_kept(
    customer: Customer, upstream: Upstream, stream: bool
) -> None:
    upstream.play(painting())
    async with customer.client() as client:
        two = await IMAGES.having(n=2).ask(client)
        four = await IMAGES.having(n=4, stream=stream).ask(client)
        again = await IMAGES.having(n=3).ask(client)
    assert [status_of(answer) for answer in (two, four, again)] == ["miss", "miss", "hit"]
    assert [visit.body["parameters"]["seed"] for visit in upstream.visits] == [7, 8, 9, 10]
    first, second, third = pictures(again)
    assert pictures(two) == [first, second]
    assert len({*pictures(four), first, second, third}) == 4


def pictures(answer: httpx.Response) -> list[bytes]:
    """Return the images of an answer, of a stream in the order in which they came."""
    found = re.findall(rb'"b64_json":"([^"]+)"', answer.content)
    return [base64.b64decode(one) for one in found]


async def cut(visit: Visit) -> None:
    """End a stream before its finish reason."""
    await visit.send(begun(delta(content="Hi")))
    visit.close()


BAD_CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at":'}}
FAILING: dict[str, tuple[Kind, bytes | Player, int]] = {
    "a stream that was cut": (STREAM, cut, 200),
    "an error event": (
        STREAM,
        begun(delta(content="Hi")) + event({"error": {"message": "Lost."}}) + LAST_CHUNK,
        200,
    ),
    "an error first": (STREAM, begun() + event({"error": {"message": "No."}}) + LAST_CHUNK, 502),
    "a server error": (CHAT, as_json({"error": "Out of order."}, status=500), 502),
    "a stream that failed": (STREAM, streamed(delta(content="Hi"), delta(reason="error")), 200),
    "a whole that failed": (
        CHAT,
        whole({"message": {"content": "Hi"}, "finish_reason": "error"}),
        502,
    ),
    "a call that cannot be read": (
        CHAT.having(tools=[LOOK]),
        whole({"message": {"tool_calls": [BAD_CALL]}, "finish_reason": "tool_calls"}),
        200,
    ),
    "a streamed call that cannot be read": (
        STREAM.having(tools=[LOOK]),
        streamed(delta(tool_calls=[{"index": 0, **BAD_CALL}]), delta(reason="tool_calls")),
        200,
    ),
    "half of the choices": (
        STREAM.having(n=2),
        streamed(delta(content="Hi"), delta(reason="stop")),
        200,
    ),
    "an image that is none": (IMAGES.having(n=1), http(b"no picture"), 502),
}


@pytest.mark.parametrize(("kind", "answer", "status"), FAILING.values(), ids=FAILING)
async def test_what_is_not_whole_is_asked_for_again(
    customer: Customer, upstream: Upstream, kind: Kind, answer: bytes | Player, status: int
) -> None:
    upstream.play(answer)
    async with customer.client() as client:
        replies = [await kind.ask(client), await kind.ask(client)]
    assert [reply.status_code for reply in replies] == [status, status]
    assert len(upstream.visits) == 2
    if status == 200:
        assert [status_of(reply) for reply in replies] == ["miss", "miss"]


@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
async def test_what_a_client_did_not_wait_for_is_asked_for_again(
    customer: Customer, upstream: Upstream, kind: Kind
) -> None:
    async def hold(visit: Visit) -> None:
        if kind is STREAM:
            await visit.send(begun(delta(content=" one")))
        await visit.left.wait()

    upstream.play(hold, *visits_of(kind))
    async with customer.client() as client:
        async with asking(client, kind) as reading:
            visit = await upstream.arrival()
            if kind is STREAM:
                await reading.shows(1)
        await visit.gone(within_seconds=PATIENCE_SECONDS)
        assert status_of(await kind.ask(client)) == "miss"
        assert status_of(await kind.ask(client)) == "hit"


UNSEEDED = {
    "chat": CHAT.having(seed=None),
    "stream": STREAM.having(seed=None),
    "native": REPEATABLE["hf-chat-of-three"].having(seed=None, n=2),
    "images": IMAGES.having(seed=None, n=2),
}


@pytest.mark.parametrize("kind", [UNSEEDED["chat"], UNSEEDED["stream"]], ids=["whole", "stream"])
async def test_what_is_drawn_is_drawn_anew(
    customer: Customer, upstream: Upstream, kind: Kind
) -> None:
    counting_upstream(upstream)
    async with customer.client() as client:
        one, other = await kind.ask(client), await kind.ask(client)
    assert (status_of(one), status_of(other)) == ("bypass", "bypass")
    assert b"answer 1" in one.content
    assert b"answer 2" in other.content


async def test_what_is_greedy_is_kept(customer: Customer, upstream: Upstream) -> None:
    counting_upstream(upstream)
    greedy = CHAT.having(seed=None, temperature=0)
    async with customer.client() as client:
        assert [status_of(await greedy.ask(client)) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("kind", UNSEEDED.values(), ids=UNSEEDED)
async def test_what_is_drawn_is_kept_where_the_operator_wants_it(
    gateway_with: StartGateway, upstream: Upstream, kind: Kind
) -> None:
    customer = await Customer.of(await gateway_with(**OPEN))
    drawing = random.Random(7)

    async def draw(visit: Visit) -> None:
        if kind is UNSEEDED["images"]:
            return await visit.send(http(noise(drawing)))
        return await counter(visit)

    counter = Counter()
    upstream.play(draw)
    async with customer.client() as client:
        miss, hit = await kind.ask(client), await kind.ask(client)
    assert (status_of(miss), status_of(hit)) == ("miss", "hit")
    assert anonymous(hit.content) == anonymous(miss.content)
    if kind is UNSEEDED["images"]:
        assert len(set(pictures(miss))) == 2
    elif kind is UNSEEDED["native"]:
        told = {choice["message"]["content"] for choice in miss.json()["choices"]}
        assert told == {"answer 1", "answer 2"}


def noise(source: random.Random) -> bytes:
    """Return a picture that cannot be compressed: some kilobytes."""
    target = io.BytesIO()
    Image.frombytes("RGB", (40, 40), source.randbytes(40 * 40 * 3)).save(target, "png")
    return target.getvalue()


SMALL: Json = {"max_value_mb": 0.002}  # about two kilobytes: less than a picture of `noise` has
PICTURE = IMAGES.having(n=1)


async def test_what_is_large_is_kept_in_a_file(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    metered = await gateway_with(**SMALL)
    customer = await Customer.of(metered)
    upstream.play(http(noise(random.Random(1))))
    async with customer.client() as client:
        miss = await PICTURE.ask(client)
        [file] = (metered.data_dir / FOLDER).iterdir()
        hit = await PICTURE.ask(client)
        assert (status_of(miss), status_of(hit)) == ("miss", "hit")
        assert anonymous(hit.content) == anonymous(miss.content)
        assert file.stat().st_size > 2000
        file.unlink()
        assert status_of(await PICTURE.ask(client)) == "miss"
        assert status_of(await PICTURE.ask(client)) == "hit"


async def test_what_is_large_is_not_kept_where_there_are_no_files(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    metered = await gateway_with(**SMALL, files_mb=0)
    customer = await Customer.of(metered)
    async with customer.client() as client:
        upstream.play(http(noise(random.Random(1))))
        assert [status_of(await PICTURE.ask(client)) for _ in range(2)] == ["miss", "miss"]
        upstream.play(*visits_of(CHAT))
        assert [status_of(await CHAT.ask(client)) for _ in range(2)] == ["miss", "hit"]
    assert not (metered.data_dir / FOLDER).exists()


async def test_a_paced_hit_takes_as_long_as_its_making(
    customer: Customer, upstream: Upstream
) -> None:
    async def pause(visit: Visit) -> None:
        await visit.send(begun(delta(content="0")))
        for at in range(1, PAUSES):
            await asyncio.sleep(PAUSE_SECONDS)
            await visit.send(event({"choices": [delta(content=str(at))]}))
        await asyncio.sleep(PAUSE_SECONDS)
        await visit.send(event({"choices": [delta(reason="stop")]}) + LAST_CHUNK)

    upstream.play(pause)
    paced = with_headers(STREAM, x_replay="paced")
    async with customer.client() as client:
        miss = await STREAM.ask(client)
        at_once = min([await seconds(client, STREAM) for _ in range(3)])
        slow = await seconds(client, paced)
        answer = await paced.ask(client)
    assert slow >= PAUSES * PAUSE_SECONDS - 0.01  # times are kept in whole milliseconds
    assert at_once < PAUSES * PAUSE_SECONDS / 2
    assert anonymous(answer.content) == anonymous(miss.content)
    assert len(upstream.visits) == 1


async def seconds(client: httpx.AsyncClient, kind: Kind) -> float:
    """Return how long a hit takes."""
    began = time.perf_counter()
    assert status_of(await kind.ask(client)) == "hit"
    return time.perf_counter() - began
