"""What the client sees of a stream, however the network cuts what the upstream sends."""

from __future__ import annotations

import pytest

from tests.acceptance.events import DONE, chat, choices_of, events_of, text_of
from tests.acceptance.recordings import LAST_CHUNK, chunk, recording
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("model", ["native/plain", "native/old"])
async def test_a_stream_is_a_role_then_text_then_one_finish_reason_then_done(client, model):
    reply = await client.post("/chat/completions", json=chat(model, stream=True))
    events = events_of(reply.content)
    first, *middle, last = choices_of(events)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(choice["delta"]) == {"content"} for choice in middle)
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert [choice["finish_reason"] for choice in (first, *middle)] == [None] * (len(middle) + 1)
    assert events[-1] == DONE


async def test_one(client):
    reply = await client.post("/chat/completions", json=chat("native/plain"))
    print(reply.status_code, reply.text, reply.headers)
    assert reply.status_code == 200
