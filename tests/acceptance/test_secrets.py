"""Credentials stay on their own side of the gateway."""

from __future__ import annotations

import pytest

from tests.acceptance.events import chat
from tests.acceptance.recordings import LAST_CHUNK, Recording, chunk, names, recording
from tests.gateway_fixture import CREDENTIAL

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key"])
@pytest.mark.parametrize("model", ["native/plain", "openai/vllm"])
async def test_the_clients_key_stays_here(client, gateway, upstream, model, header):
    key = f"Bearer {gateway.key}" if header == "authorization" else gateway.key
    headers = {"authorization": "", header: key, "cookie": "session=1", "x-mine": "secret"}
    reply = await client.post("/chat/completions", json=chat(model), headers=headers)
    assert reply.status_code == 200
    (visit,) = upstream.visits
    assert gateway.key.encode() not in visit.raw
    assert not {"cookie", "x-mine", "api-key", "x-api-key"} & set(visit.headers)
    assert visit.headers["authorization"] == f"Bearer {CREDENTIAL}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", [*names("errors"), "native/plain", "openai/vllm"])
async def test_the_upstreams_credential_is_in_no_answer(client, model, stream):
    reply = await client.post("/chat/completions", json=chat(model, stream=stream))
    assert CREDENTIAL not in reply.text + str(reply.headers)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
async def test_a_credential_that_the_upstream_repeats_is_not_passed_on(client, upstream, status):
    body = b'{"error":"The token Bearer %b is not valid"}' % CREDENTIAL.encode()
    head = b"HTTP/1.1 %d Refused\r\ncontent-type: application/json" % status
    upstream.play(Recording(head, body).whole())
    reply = await client.post("/chat/completions", json=chat("native/plain"))
    assert reply.status_code >= 400
    assert CREDENTIAL not in reply.text + str(reply.headers)


async def test_a_credential_in_an_error_event_is_not_passed_on(client, upstream):
    error = b'data: {"error":"The token %b is not valid"}\n\n' % CREDENTIAL.encode()
    recorded = recording("native/plain.stream")
    upstream.play(recorded.chunked() + chunk(error) + LAST_CHUNK)
    reply = await client.post("/chat/completions", json=chat("native/plain", stream=True))
    assert reply.status_code == 502
    assert CREDENTIAL not in reply.text


async def test_headers_of_the_upstream_stay_there(client, upstream):
    recorded = recording("native/plain.answer")
    head = recorded.head + b"\r\nset-cookie: session=1\r\nserver: theirs\r\nx-inference-id: 7"
    upstream.play(Recording(head, recorded.body).whole())
    reply = await client.post("/chat/completions", json=chat("native/plain"))
    assert not {"set-cookie", "server", "x-inference-id", "x-compute-type"} & set(reply.headers)
