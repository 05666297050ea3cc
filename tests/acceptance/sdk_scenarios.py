"""What an application sees through OpenAI's Python SDK, as JSON on standard output.

    python sdk_scenarios.py BASE_URL API_KEY sync|async

Runs by itself, under whichever version of the SDK the path leads to. `sdk_scenarios.mjs` does
the same in Node; `test_sdks.py` says what must come out.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import openai

Json = dict[str, Any]

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "strict": True, "parameters": {"type": "object"}},
    }
    for name in ("get_weather", "get_time")
]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "weather",
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# What SDKs raise on answers that are not OpenAI's, beside their own errors.
FAULTS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
FORCED: Any = {"type": "function", "function": {"name": "get_weather"}}


class Application:
    """Each method is one scenario and returns what it saw."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._create = client.chat.completions.create

    async def chat(self) -> Any:
        answer = await got(self._create(model="native/plain", messages=MESSAGES))
        choice = answer.choices[0]
        return {
            "object": answer.object,
            "model": answer.model,
            "role": choice.message.role,
            "content": choice.message.content,
            "finish_reason": choice.finish_reason,
            "usage": counts(answer.usage),
        }

    async def stream(self) -> Any:
        stream = await got(self._create(model="native/plain", messages=MESSAGES, stream=True))
        chunks = [chunk async for chunk in each(stream)]
        choices = [choice for chunk in chunks for choice in chunk.choices]
        return {
            "ids": len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}),
            "roles": [choice.delta.role for choice in choices if choice.delta.role],
            "content": "".join(choice.delta.content or "" for choice in choices),
            "finish_reasons": [each.finish_reason for each in choices if each.finish_reason],
            "chunks_with_usage": sum(chunk.usage is not None for chunk in chunks),
        }

    async def stream_usage(self) -> Any:
        options = {"include_usage": True}
        stream = await got(
            self._create(
                model="native/plain", messages=MESSAGES, stream=True, stream_options=options
            )
        )
        chunks = [chunk async for chunk in each(stream)]
        told = [chunk for chunk in chunks if chunk.usage]
        return {
            "told": len(told),
            "is_last": told[-1] is chunks[-1],
            "choices": len(told[-1].choices),
            "usage": counts(told[-1].usage),
        }

    async def helper(self) -> Any:
        return await self._final(model="native/plain")

    async def completion(self) -> Any:
        answer = await got(self._client.completions.create(model="native/plain", prompt="Hi"))
        choice = answer.choices[0]
        return {"object": answer.object, "text": choice.text, "finish_reason": choice.finish_reason}

    async def completion_stream(self) -> Any:
        stream = await got(
            self._client.completions.create(model="native/plain", prompt="Hi", stream=True)
        )
        choices = [choice async for chunk in each(stream) for choice in chunk.choices]
        return {
            "text": "".join(choice.text for choice in choices),
            "finish_reasons": [each.finish_reason for each in choices if each.finish_reason],
        }

    async def two_choices(self) -> Any:
        return await self._final(model="native/plain", n=2)

    async def tools(self) -> Any:
        answer = await got(self._create(model="native/tools", messages=MESSAGES, tools=TOOLS))
        return seen(answer.choices[0])

    async def tools_stream(self) -> Any:
        return await self._final(model="native/tools", tools=TOOLS)

    async def forced_tool(self) -> Any:
        answer = await got(
            self._create(model="native/forced", messages=MESSAGES, tools=TOOLS, tool_choice=FORCED)
        )
        return seen(answer.choices[0])

    async def forced_tool_stream(self) -> Any:
        return await self._final(model="native/forced", tools=TOOLS, tool_choice=FORCED)

    async def logprobs(self) -> Any:
        answer = await got(
            self._create(model="native/logprobs", messages=MESSAGES, logprobs=True, top_logprobs=2)
        )
        return [
            [token.token, token.logprob, bytes(token.bytes).decode(), len(token.top_logprobs)]
            for token in answer.choices[0].logprobs.content
        ]

    async def logprobs_stream(self) -> Any:
        stream = await got(
            self._create(model="native/logprobs", messages=MESSAGES, logprobs=True, stream=True)
        )
        choices = [choice async for chunk in each(stream) for choice in chunk.choices]
        return [token.token for each in choices if each.logprobs for token in each.logprobs.content]

    async def structured(self) -> Any:
        answer = await got(
            self._create(model="native/json", messages=MESSAGES, response_format=SCHEMA)
        )
        return json.loads(answer.choices[0].message.content)

    async def headers(self) -> Any:
        create = self._client.chat.completions.with_raw_response.create
        raw = await got(create(model="native/plain", messages=MESSAGES, store=True))
        return named(raw.headers)

    async def stream_headers(self) -> Any:
        create = self._client.chat.completions.with_raw_response.create
        raw = await got(create(model="native/plain", messages=MESSAGES, store=True, stream=True))
        async for _ in each(await got(raw.parse())):
            pass
        return named(raw.headers)

    async def models(self) -> Any:
        listed = [model.id async for model in each(await got(self._client.models.list()))]
        shown = await got(self._client.models.retrieve("native/plain"))
        return {"listed": "native/plain" in listed, "shown": shown.id}

    async def repeated_tools(self) -> Any:
        return await self._final(model="openai/repeated_tools", tools=TOOLS)

    async def bare_tools(self) -> Any:
        return await self._final(model="openai/bare_tools", tools=TOOLS)

    async def bare_tools_whole(self) -> Any:
        answer = await got(self._create(model="openai/bare_tools", messages=MESSAGES, tools=TOOLS))
        return seen(answer.choices[0])

    async def vllm_stream(self) -> Any:
        return await self._final(model="openai/vllm")

    async def tgi_chat_stream(self) -> Any:
        return await self._final(model="openai/tgi")

    async def unordered_choices(self) -> Any:
        return await self._final(model="openai/unordered", n=2)

    async def broken_stream(self) -> Any:
        stream = await got(self._create(model="native/fails", messages=MESSAGES, stream=True))
        content, reasons = "", []
        try:
            async for chunk in each(stream):
                if not content:
                    await self.chat()  # tells the upstream that its first words have arrived
                content += chunk.choices[0].delta.content or ""
                reasons += [chunk.choices[0].finish_reason]
        except openai.APIError as error:
            return {
                "error": type(error).__name__,
                "code": error.code,
                "content": content,
                "finish_reasons": [reason for reason in reasons if reason],
            }
        return {"error": None}

    async def errors(self) -> Any:
        bad_key = self._client.with_options(api_key="sk-dm_nonsense")
        return {
            "key": await failure(bad_key.chat.completions.create, model="native/plain"),
            "model": await failure(self._create, model="no/such"),
            "value": await failure(self._create, model="native/plain", temperature=3),
            "unsupported": await failure(self._create, model="native/plain", logit_bias={"1": 1}),
            "context": await failure(self._create, model="errors/context"),
            "rate": await failure(self._create, model="errors/rate_limit"),
            "rate_event": await failure(self._create, model="errors/overloaded_event", stream=True),
            "credits": await failure(self._create, model="errors/credits"),
            "loading": await failure(self._create, model="errors/loading"),
            "failed": await failure(self._create, model="errors/generation"),
        }

    async def _final(self, **options: Any) -> Any:
        """Return the choices that the SDK's own accumulating helper ends with."""
        opened = self._client.chat.completions.stream(messages=MESSAGES, **options)
        if hasattr(opened, "__aenter__"):
            async with opened as stream:
                answer = await stream.get_final_completion()
        else:
            with opened as stream:
                answer = stream.get_final_completion()
        return [seen(choice) for choice in answer.choices]


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def each(stream: Any) -> Any:
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
        return
    for item in stream:
        yield item


async def failure(create: Any, **options: Any) -> list[Any]:
    try:
        await got(create(messages=MESSAGES, **options))
    except openai.APIStatusError as error:
        assert error.request_id
        return [type(error).__name__, error.status_code, error.code, error.param, error.type]
    return []


def seen(choice: Any) -> Json:
    calls = choice.message.tool_calls or []
    facts = {
        "role": choice.message.role,
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "calls": [[each.type, each.function.name, each.function.arguments] for each in calls],
    }
    ids = {each.id for each in calls}
    assert len(ids) == len(calls), "calls share an id"
    return facts


def counts(usage: Any) -> list[int]:
    return [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]


def named(headers: Any) -> Json:
    return {
        "request_id": len(headers["x-request-id"]),
        "model": headers["x-dragoman-model"],
        "upstream": headers["x-dragoman-upstream"],
        "ignored": headers["x-dragoman-ignored"],
        "timed": headers["x-dragoman-upstream-ms"].isdecimal(),
    }


async def main(base_url: str, key: str, kind: str) -> None:
    cls = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
    application = Application(cls(base_url=base_url, api_key=key, max_retries=0, timeout=60))
    facts: Json = {"version": openai.__version__}
    for name, scenario in inspect.getmembers(application, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            facts[name] = await attempt(scenario)
    print(json.dumps(facts))


async def attempt(scenario: Any) -> Any:
    """Return the scenario's facts, or what it raised: the others are to run all the same."""
    try:
        return await scenario()
    except (openai.OpenAIError, *FAULTS) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
