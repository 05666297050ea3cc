"""Texts by the native API: passed on as they came, answered in the form of the path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.native.answers import (
    STREAM,
    completed,
    completed_stream,
    generated,
    reply,
    streamed,
    token,
)
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

PARAMETERS = {"max_new_tokens": 2, "seed": 7, "details": True}
JSON = {"content-type": "application/json"}


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream, all of which are framed alike."""
    *frames, rest = body.decode().split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize(
    "path",
    [
        "/models/org/text",
        "/models/org%2Ftext",
        "/models/gpt2",
        "/hf-inference/models/org/text",
        "/models//org/text/",
    ],
)
async def test_a_request_reaches_the_server_byte_for_byte(client, upstream, path):
    upstream.play(generated("What is deep learning"))
    parameters = b'{"seed": 18446744073709551615, "max_new_tokens": 5, "top_p": 0.90}'
    sent = b'{ "inputs": "Hi \\u00e9", "parameters": %b}' % parameters
    got = await client.post(path, content=sent, headers=JSON)
    assert got.status_code == 200
    [visit] = upstream.visits
    assert visit.path == "/hf/models/up/stream"
    assert visit.raw.endswith(b"\r\n\r\n" + sent)
    assert visit.headers["content-type"] == "application/json"


async def test_the_answer_and_its_headers_come_as_they_are(client, upstream):
    upstream.play(generated("What is deep learning"))
    got = await client.post("/models/org/text", json={"inputs": "As they are"})
    [answer] = got.json()
    assert answer["generated_text"] == "What is deep learning"
    assert answer["details"]["seed"] == 2**64 - 1
    told = {"x-compute-type": "1-a10-g", "x-sha": "abc", "x-prompt-tokens": "5"}
    assert told.items() <= dict(got.headers).items()
    assert got.headers["x-dragoman-upstream"] == "hf"


async def test_what_the_server_keeps_to_itself_is_not_told(client, upstream):
    upstream.play(reply([{"generated_text": "x"}], server="tgi", set_cookie="a=b"))
    got = await client.post("/models/org/text", json={"inputs": "To itself"})
    assert got.status_code == 200
    assert {"server", "set-cookie"}.isdisjoint(got.headers)


@pytest.mark.parametrize(("path", "kind"), [("", list), ("/generate", dict)])
@pytest.mark.parametrize("came", [[{"generated_text": "t"}], {"generated_text": "t"}])
async def test_the_path_says_whether_the_answer_is_an_array(client, upstream, path, kind, came):
    upstream.play(reply(came))
    got = await client.post(f"/models/org/text{path}", json={"inputs": "Say"})
    assert type(got.json()) is kind


async def test_generate_has_its_own_defaults_at_a_server_without_such_a_path(client, upstream):
    upstream.play(generated(" deep learning"))
    await client.post("/models/org/text/generate", json={"inputs": "a", "stream": True})
    asked = PARAMETERS | {"return_full_text": True}
    await client.post("/models/org/text/generate", json={"inputs": "b", "parameters": asked})
    bodies = [visit.body for visit in upstream.visits]
    assert bodies == [
        {
            "inputs": "a",
            "parameters": {"return_full_text": False, "do_sample": True, "max_new_tokens": 1024},
        },
        {"inputs": "b", "parameters": asked},
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {"do_sample": True, "max_new_tokens": 1024}),  # without parameters TGI draws
        ({"top_k": 3}, {"top_k": 3, "max_new_tokens": 1024}),
        ({"max_new_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_length": 30}, {"max_length": 30}),
    ],
)
async def test_no_text_is_longer_than_what_is_reserved_for_it(client, upstream, given, sent):
    upstream.play(generated("t"))
    body = {"inputs": "How long"} | ({} if given is None else {"parameters": given})
    await client.post("/models/org/text", json=body)
    assert upstream.visits[0].body["parameters"] == sent


@pytest.mark.parametrize("ending", ["", "/generate", "/generate_stream"])
async def test_a_tgi_server_is_asked_at_the_same_path(client, upstream, ending):
    upstream.play(streamed(*STREAM) if ending.endswith("stream") else generated("t"))
    sent = json.dumps({"inputs": ending, "parameters": {"max_new_tokens": 3}}).encode()
    got = await client.post(f"/models/org/tgi{ending}", content=sent, headers=JSON)
    assert got.status_code == 200
    [visit] = upstream.visits
    assert visit.path == f"/tgi{ending or '/'}"
    assert visit.raw.endswith(sent)


@pytest.mark.parametrize("space", [b" ", b""])
@pytest.mark.parametrize("path", ["/models/org/text", "/models/org/text/generate_stream"])
async def test_a_stream_comes_event_by_event_without_done(client, upstream, path, space):
    upstream.play(streamed(*STREAM, space=space))
    got = await client.post(path, json={"inputs": "Hi", "stream": True})
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.headers["x-compute-type"] == "1-a10-g"
    assert events(got.content) == [json.loads(payload) for payload in STREAM]
    assert upstream.visits[0].body["stream"] is True


async def test_a_server_that_does_not_stream_is_told_in_one_event(client, upstream):
    upstream.play(reply([{"generated_text": "All of it"}]))
    got = await client.post("/models/org/text", json={"inputs": "At once", "stream": True})
    [event] = events(got.content)
    assert (event["token"]["text"], event["generated_text"]) == ("All of it", "All of it")


async def test_an_error_before_the_first_event_is_a_status(client, upstream):
    said = {"error": "Input validation error: too long", "error_type": "validation"}
    upstream.play(streamed(json.dumps(said).encode()))
    got = await client.post("/models/org/text", json={"inputs": "Early", "stream": True})
    assert (got.status_code, got.json()) == (400, said)


async def test_an_error_after_the_first_event_is_an_event(client, upstream):
    said = {"error": "Request failed during generation: CUDA", "error_type": "generation"}
    upstream.play(streamed(token("a"), json.dumps(said).encode()))
    got = await client.post("/models/org/text", json={"inputs": "Late", "stream": True})
    assert got.status_code == 200
    [first, failure] = events(got.content)
    assert first["token"]["text"] == "a"
    assert failure == said


async def test_a_stream_without_its_last_event_is_incomplete(client, upstream):
    upstream.play(streamed(token("a")))
    got = await client.post("/models/org/text", json={"inputs": "Cut", "stream": True})
    assert events(got.content)[-1]["error_type"] == "incomplete_generation"


async def test_images_are_passed_on_but_links_are_not_fetched_by_the_server(client, upstream):
    upstream.play(generated("t"))
    prompt = "![](data:image/png;base64,AAAA) ![](http://169.254.169.254/) what?"
    await client.post("/models/org/text", json={"inputs": prompt})
    sent = upstream.visits[0].body["inputs"]
    assert "![](data:image/png;base64,AAAA)" in sent
    assert "![](http" not in sent


async def test_options_are_obeyed_here_and_not_passed_on(client, upstream):
    upstream.play(generated("t"))
    options = {"use_cache": False, "wait_for_model": True, "use_gpu": True}
    for _ in range(2):
        body = {"inputs": "Opt", "parameters": PARAMETERS, "options": options}
        got = await client.post("/models/org/text", json=body)
        assert got.headers["x-dragoman-cache"] == "bypass"
    assert [visit.body["options"] for visit in upstream.visits] == [{"use_gpu": True}] * 2
    assert [visit.headers["x-use-cache"] for visit in upstream.visits] == ["0", "0"]


async def test_headers_win_over_options(client, upstream):
    upstream.play(generated("t"))
    body = {"inputs": "Win", "parameters": PARAMETERS, "options": {"use_cache": False}}
    told = []
    for _ in range(2):
        got = await client.post("/models/org/text", json=body, headers={"x-use-cache": "1"})
        told.append(got.headers["x-dragoman-cache"])
    assert told == ["miss", "hit"]


async def test_a_model_that_loads_is_not_waited_for_if_the_body_says_so(client, upstream):
    loading = {"error": "Model up/stream is currently loading", "estimated_time": 0.5}
    upstream.play(reply(loading, status="503 Service Unavailable"))
    body = {"inputs": "Now", "options": {"wait_for_model": False}}
    got = await client.post("/models/org/text", json=body)
    assert got.status_code == 503
    told = got.json()
    assert (told["error_type"], got.headers["retry-after"]) == ("loading", "1")
    assert told["estimated_time"] == 1.0
    assert len(upstream.visits) == 1


@pytest.mark.parametrize(
    "given", [{"seed": 7}, {"do_sample": False}, {"temperature": 1.0}, {"max_new_tokens": 3}]
)
async def test_what_would_be_the_same_again_is_kept_and_marked(client, upstream, given):
    upstream.play(generated("kept"))
    got = [
        await client.post("/models/org/text", json={"inputs": "Keep", "parameters": given})
        for _ in range(2)
    ]
    assert [one.headers["x-dragoman-cache"] for one in got] == ["miss", "hit"]
    assert [one.headers["x-compute-type"] for one in got] == ["1-a10-g", "cache"]
    assert got[0].content == got[1].content
    assert "x-use-cache" not in upstream.visits[0].headers


@pytest.mark.parametrize(
    "more", [{}, {"parameters": {"do_sample": True}}, {"parameters": {"temperature": 0.7}}]
)
async def test_what_is_drawn_without_a_seed_is_drawn_anew(client, upstream, more):
    upstream.play(generated("drawn"))
    for _ in range(2):
        got = await client.post("/models/org/text", json={"inputs": "Draw"} | more)
        assert got.headers["x-dragoman-cache"] == "bypass"
    assert [visit.headers["x-use-cache"] for visit in upstream.visits] == ["0", "0"]


async def test_a_kept_stream_is_replayed_event_by_event(client, upstream):
    upstream.play(streamed(*STREAM))
    body = {"inputs": "Replay", "stream": True, "parameters": PARAMETERS}
    got = [await client.post("/models/org/text", json=body) for _ in range(2)]
    assert [one.headers["x-dragoman-cache"] for one in got] == ["miss", "hit"]
    assert got[0].content == got[1].content
    assert got[1].headers["x-compute-type"] == "cache"


async def test_a_server_that_speaks_openai_is_asked_for_a_completion(client, upstream):
    upstream.play(completed(" learning"))
    parameters = {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 3,
        "repetition_penalty": 1.1,
        "watermark": True,
        "grammar": {"type": "json", "value": {"type": "object", "properties": {}}},
    }
    got = await client.post("/models/open/text", json={"inputs": "deep", "parameters": parameters})
    [visit] = upstream.visits
    assert visit.path == "/v1/completions"
    sent = visit.body
    assert (sent["prompt"], sent["max_tokens"], sent["temperature"]) == ("deep", 77, 0.5)
    assert sent["response_format"]["json_schema"]["schema"]["type"] == "object"
    assert "watermark" not in sent
    assert got.json() == [{"generated_text": "deep learning"}]
    assert got.headers["x-dragoman-ignored"] == "watermark"


async def test_its_answer_has_details_and_no_prompt_for_generate(client, upstream):
    upstream.play(completed(" learning"))
    body = {"inputs": "deep", "parameters": {"details": True}}
    got = await client.post("/models/open/text/generate", json=body)
    assert upstream.visits[0].body["temperature"] == 0
    assert got.json() == {
        "generated_text": " learning",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 2,
            "seed": None,
            "prefill": [],
            "tokens": [],
        },
    }


async def test_its_stream_has_native_events(client, upstream):
    upstream.play(completed_stream(" deep", " learning"))
    got = await client.post("/models/open/text/generate_stream", json={"inputs": "What is"})
    told = events(got.content)
    assert [event["token"]["text"] for event in told] == [" deep", " learning", ""]
    assert [event["generated_text"] for event in told] == [None, None, " deep learning"]
    assert told[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 2,
        "seed": None,
        "input_length": 5,
    }


async def test_a_grammar_that_is_no_json_is_refused_there(client, upstream):
    body = {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "a+"}}}
    got = await client.post("/models/open/text", json=body)
    assert got.status_code == 501
    assert got.json()["error_type"] == "not_supported"
    assert not upstream.visits


@pytest.mark.parametrize("called", [None, "tgi", "dummy", "http://gw/models/org/text"])
async def test_chats_take_the_model_of_the_path(client, upstream, called):
    upstream.play(completed("hello"))
    body = {"prompt": "Hi", "max_tokens": 3} | ({"model": called} if called else {})
    got = await client.post("/models/open/text/v1/completions", json=body)
    assert got.json()["choices"][0]["text"] == "hello"
    assert got.json()["model"] == "open/text"


async def test_their_errors_are_native_too(client, upstream):
    for body in ({"messages": []}, {"model": ["tgi"]}, [], None):
        got = await client.post("/models/open/text/v1/chat/completions", json=body)
        assert got.status_code == 400
        assert isinstance(got.json()["error"], str)


async def test_their_late_errors_are_native_events(client, upstream):
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    upstream.play(streamed(json.dumps(chunk).encode()))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    got = await client.post("/models/open/text/v1/chat/completions", json=body)
    failure = events(got.content)[-1]
    assert isinstance(failure["error"], str)
    assert failure["error_type"] == "incomplete_generation"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[1]", 400),
        (b'{"parameters": {}}', 422),
        (b'{"inputs": 3}', 422),
        (b'{"inputs": "x", "parameters": []}', 422),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": 0}}', 422),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": true}}', 422),
        (b'{"inputs": "x", "parameters": {"best_of": "2"}}', 422),
    ],
)
async def test_what_cannot_be_metered_is_refused(client, upstream, body, status):
    got = await client.post("/models/org/text", content=body, headers=JSON)
    assert (got.status_code, got.json()["error_type"]) == (status, "validation")
    assert not upstream.visits


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_those_that_the_server_tells(client, upstream, recorded, stream):
    upstream.play(streamed(*STREAM) if stream else generated("Told deep learning"))
    got = await client.post("/models/org/text", json={"inputs": "Told", "stream": stream})
    row = await recorded(got)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (5, 2, False)
    assert (row["task"], row["status"], row["finish"]) == ("completion", "ok", "length")


async def test_a_text_without_details_is_counted_without_its_prompt(client, upstream, recorded):
    prompt = "A prompt of forty characters, as it seems"
    upstream.play(reply([{"generated_text": f"{prompt}12345678"}]))
    row = await recorded(await client.post("/models/org/text", json={"inputs": prompt}))
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (11, 2, True)


async def test_those_made_beside_the_best_count_too(client, upstream, recorded):
    others = [{"generated_text": "b", "finish_reason": "length", "generated_tokens": 3}]
    details = {"finish_reason": "length", "generated_tokens": 2, "best_of_sequences": others}
    upstream.play(reply([{"generated_text": "a", "details": details}]))
    body = {"inputs": "Best", "parameters": {"best_of": 2, "do_sample": True}}
    row = await recorded(await client.post("/models/org/text", json=body))
    assert row["output_tokens"] == 5


async def test_a_late_error_is_settled_on_what_came(client, upstream, recorded):
    upstream.play(streamed(token("a"), b'{"error": "gone", "error_type": "generation"}'))
    got = await client.post("/models/org/text", json={"inputs": "Pay", "stream": True})
    row = await recorded(got)
    assert (row["status"], row["finish"], row["output_tokens"]) == ("error", "upstream_error", 1)
    assert row["input_tokens"] == 1


async def test_a_hit_costs_nothing(client, upstream, recorded):
    upstream.play(generated("free"))
    body = {"inputs": "Free", "parameters": PARAMETERS}
    paid, free = [
        await recorded(await client.post("/models/org/text", json=body)) for _ in range(2)
    ]
    assert (paid["cached"], paid["output_tokens"]) == (False, 2)
    assert (free["cached"], free["output_tokens"]) == (True, 0)


async def test_when_the_client_leaves_the_server_is_hung_up_on(client, gateway, upstream):
    async def drip(visit: Visit) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        await visit.send(head, b"data: %b\n\n" % token("a"))
        await visit.left.wait()

    upstream.play(drip)
    body = {"inputs": "Leave", "stream": True}
    async with client.stream("POST", "/models/org/text", json=body) as got:
        async for _ in got.aiter_raw():
            break
    visit = await upstream.arrival()
    await visit.gone(within_seconds=1)


@pytest.mark.parametrize("stream", [False, True])
async def test_another_server_answers_in_its_own_way(client, upstream, recorded, stream):
    failed = reply({"error": "no"}, status="500 Internal Server Error")
    second = completed_stream(" deep") if stream else completed(" deep")
    upstream.play(failed, second)
    got = await client.post("/models/org/either", json={"inputs": "Two", "stream": stream})
    assert [visit.path for visit in upstream.visits] == ["/hf/models/org/either", "/v1/completions"]
    told = events(got.content)[-1] if stream else got.json()[0]
    assert told["generated_text"] == "Two deep"
    assert got.headers["x-dragoman-upstream"] == "openai"
    row = await recorded(got)
    assert (row["status"], row["upstream"], row["output_tokens"]) == ("ok", "openai", 2)
