"""No request, however odd, makes the gateway fail: it answers, or says in OpenAI's form why not."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway import running
from tests.gateway.running import CHAT, COMPLETION, DIALECTS, TOKENIZER, Gateway, envelope

pytestmark = pytest.mark.anyio

# Says tools and calls, so that what follows from them is reached too.
TEMPLATE = """
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}<|im_start|>{{ message['role'] + '\n' }}{{ message['content'] }}
{%- for call in message['tool_calls'] or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor %}
<|im_end|>
{% endfor %}<|im_start|>assistant
"""
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RICH_CHAT: dict[str, Any] = {
    **CHAT,
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 5,
    "n": 2,
    "stop": ["\n"],
    "seed": 7,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {},
}
RICH_COMPLETION: dict[str, Any] = {
    **COMPLETION,
    "prompt": ["Hello", "you"],
    "stream": True,
    "max_tokens": 5,
    "n": 2,
    "stop": "x",
    "seed": 7,
    "logprobs": 2,
    "echo": True,
    "best_of": 2,
    "suffix": "",
}
WORDS = sorted(
    {*RICH_CHAT, *RICH_COMPLETION, "role", "content", "type", "function", "allowed_tools", "name"}
)
VALUES = st.sampled_from(
    "auto none required function custom allowed_tools json_object json_schema text user".split()
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | VALUES
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions"])
QUICK = settings(max_examples=100, deadline=None)
LONG = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("tokenizers") / "with-tools"
    shutil.copytree(TOKENIZER, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = running.settings(tokenizer=folder)
    async with running.started_gateway(tmp_path_factory.mktemp("data"), config) as made:
        # Waits for the template: its thread and hypothesis must not import numpy at once.
        await check(made, "/v1/chat/completions", json.dumps(CHAT | {"model": "hf/model"}).encode())
        yield made


async def check(gateway: Gateway, path: str, content: bytes) -> None:
    async with gateway.client() as client:
        answer = await client.post(path, content=content)
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, (answer.text, content)
        assert envelope(answer.content)["code"]
    elif answer.headers["content-type"] == "application/json":
        assert answer.json()["choices"]
    else:
        assert answer.text.endswith("\n\ndata: [DONE]\n\n"), (answer.text, content)
        assert '"error"' not in answer.text


@st.composite
def mutated_requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a path and a body that was right, until up to three places in it were changed."""
    path = draw(PATHS)
    plain, rich = (CHAT, RICH_CHAT) if "chat" in path else (COMPLETION, RICH_COMPLETION)
    body = copy.deepcopy(draw(st.sampled_from([plain, rich])))
    for name in draw(st.sets(st.sampled_from(sorted(body)))) - {"messages", "prompt"}:
        del body[name]
    body["model"] = f"{draw(st.sampled_from(DIALECTS))}/model"
    for _ in range(draw(st.integers(0, 3))):
        _mutate(draw, body)
    return path, body


def _mutate(draw: st.DrawFn, body: dict[str, Any]) -> None:
    place: Any = body
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from([*keys, draw(st.sampled_from(WORDS))])) if keys else "x"
        inner = place[key] if key in keys else None
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        place = inner
    if isinstance(place, list):
        place[key if isinstance(key, int) else 0 :] = draw(st.lists(JSON, max_size=2))
    elif key in place and draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(JSON)


@given(mutated_requests())
@LONG
async def test_requests_that_were_nearly_right(
    gateway: Gateway, request_: tuple[str, dict[str, Any]]
) -> None:
    path, body = request_
    await check(gateway, path, json.dumps(body).encode())


@given(PATHS, JSON)
@QUICK
async def test_any_json(gateway: Gateway, path: str, body: Any) -> None:
    await check(gateway, path, json.dumps(body).encode())


@given(PATHS, st.sampled_from(DIALECTS), st.sampled_from(WORDS), JSON)
@LONG
async def test_any_value_of_any_parameter(
    gateway: Gateway, path: str, dialect: str, name: str, value: Any
) -> None:
    rich = RICH_CHAT if "chat" in path else RICH_COMPLETION
    body = {**rich, "model": f"{dialect}/model", name: value}
    await check(gateway, path, json.dumps(body).encode())


@given(PATHS, st.binary(max_size=200))
@QUICK
async def test_any_bytes(gateway: Gateway, path: str, content: bytes) -> None:
    await check(gateway, path, content)


@given(PATHS, st.integers(0, 600), st.binary(min_size=1, max_size=3))
@QUICK
async def test_a_damaged_body(gateway: Gateway, path: str, at: int, damage: bytes) -> None:
    whole = json.dumps(RICH_CHAT if "chat" in path else RICH_COMPLETION).encode()
    await check(gateway, path, whole[:at] + damage + whole[at + 1 :])
