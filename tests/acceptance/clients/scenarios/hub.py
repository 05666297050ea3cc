"""The newest `huggingface_hub`, whose clients are given the URL of a model."""

from __future__ import annotations

from typing import Any

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import GenerationError, IncompleteGenerationError

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"max_new_tokens": 12, "do_sample": False}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def text(gateway: Any) -> str:
    return _client(gateway, "text").text_generation("The sky is", **GREEDY)


def text_streamed(gateway: Any) -> str:
    client = _client(gateway, "text")  # without it the stream would be closed
    return "".join(client.text_generation("The sky is", stream=True, **GREEDY))


def text_with_details(gateway: Any) -> list[Any]:
    told = _client(gateway, "text").text_generation("The sky is", details=True, **GREEDY)
    return [told.generated_text, len(told.details.tokens), told.details.finish_reason]


def text_streamed_with_details(gateway: Any) -> list[Any]:
    client = _client(gateway, "text")
    events = list(client.text_generation("The sky is", stream=True, details=True, **GREEDY))
    ending = events[-1]
    return [ending.generated_text, len(events), ending.details.finish_reason]


async def text_async(gateway: Any) -> str:
    async with AsyncInferenceClient(gateway.model("text"), token=gateway.key) as client:
        return await client.text_generation("The sky is", **GREEDY)


async def text_async_streamed(gateway: Any) -> str:
    async with AsyncInferenceClient(gateway.model("text"), token=gateway.key) as client:
        tokens = await client.text_generation("The sky is", stream=True, **GREEDY)
        return "".join([token async for token in tokens])


def chat(gateway: Any) -> list[Any]:
    client = _client(gateway, "text")
    answer = client.chat_completion(MESSAGES, max_tokens=12, temperature=0)
    return [answer.choices[0].message.content, answer.usage.completion_tokens]


def chat_streamed(gateway: Any) -> str:
    client = InferenceClient(base_url=gateway.model("text"), api_key=gateway.key)
    chunks = client.chat.completions.create(
        messages=MESSAGES, max_tokens=12, temperature=0, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def chat_at_v1(gateway: Any) -> str:
    client = InferenceClient(base_url=f"{gateway.root}/v1", api_key=gateway.key)
    answer = client.chat_completion(MESSAGES, model="local-chat", max_tokens=12, temperature=0)
    return answer.choices[0].message.content


def chat_by_schema(gateway: Any) -> str:
    response_format = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
    answer = _client(gateway, "text").chat_completion(
        MESSAGES, max_tokens=40, temperature=0, response_format=response_format
    )
    return answer.choices[0].message.content


def chat_with_tools(gateway: Any) -> list[str]:
    function = {"name": "forecast", "parameters": SCHEMA}
    client = _client(gateway, "scripted/assists")
    answer = client.chat_completion(MESSAGES, tools=[{"type": "function", "function": function}])
    [call] = answer.choices[0].message.tool_calls
    return [call.function.name, call.function.arguments]


def image(gateway: Any) -> list[Any]:
    picture = _client(gateway, "image").text_to_image("a fox", seed=42)
    return [picture.format, *picture.size]


def speech_and_back(gateway: Any) -> str:
    sound = _client(gateway, "speech").text_to_speech("A fox runs through the snow.")
    return _client(gateway, "transcription").automatic_speech_recognition(sound).text


def embedding(gateway: Any) -> list[int]:
    return [*_client(gateway, "embedding").feature_extraction("A cat sat.", normalize=True).shape]


def endpoint(gateway: Any) -> list[Any]:
    client = InferenceClient(gateway.model("text"), provider="hf-inference", token=gateway.key)
    return [client.get_endpoint_info()["model_pipeline_tag"], client.health_check()]


def wrong_key(gateway: Any) -> str:
    client = InferenceClient(gateway.model("text"), token="hf_wrong")
    return client.text_generation("Hi")


def spent_quota(gateway: Any) -> str:
    client = InferenceClient(gateway.model("text"), token=gateway.spent_key)
    return client.text_generation("Hi")


def no_such_model(gateway: Any) -> str:
    return _client(gateway, "no/such").text_generation("Hi")


def no_such_model_in_a_chat(gateway: Any) -> Any:
    return _client(gateway, "no/such").chat_completion(MESSAGES)


def nothing_asked(gateway: Any) -> str:
    return _client(gateway, "text").text_generation("Hi", max_new_tokens=0)


def too_much_asked(gateway: Any) -> str:
    return _client(gateway, "scripted/refuses").text_generation("Hi")


def busy(gateway: Any) -> str:
    return _client(gateway, "scripted/is_busy").text_generation("Hi")


def loading(gateway: Any) -> str:
    return _client(gateway, "scripted/never_loads").text_generation("Hi")


def failing_late(gateway: Any) -> list[str]:
    seen, client = [], _client(gateway, "scripted/fails")
    try:
        for token in client.text_generation("Hi", stream=True):
            seen.append(token)
    except GenerationError as error:
        seen.append(str(error))
    return seen


def breaking_off(gateway: Any) -> list[str]:
    seen, client = [], _client(gateway, "scripted/breaks_off")
    try:
        for token in client.text_generation("Hi", stream=True):
            seen.append(token)
    except IncompleteGenerationError as error:
        seen.append(type(error).__name__)
    return seen


def chat_breaking_off(gateway: Any) -> list[str]:
    seen, client = [], _client(gateway, "scripted/falls_silent")
    try:
        for chunk in client.chat_completion(MESSAGES, stream=True):
            seen.append(chunk.choices[0].delta.content)
    except IncompleteGenerationError as error:
        seen.append(type(error).__name__)
    return seen


def _client(gateway: Any, name: str) -> InferenceClient:
    return InferenceClient(model=gateway.model(name), token=gateway.key)
