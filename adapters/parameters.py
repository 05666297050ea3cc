"""OpenAI's text parameters as the native API's `parameters`.

Source of the native side: text-generation-inference 3.3, router/src/validation.rs (ranges) and
server/text_generation_server/utils/tokens.py (when it samples).

    OpenAI                              native
    temperature 0                       do_sample: false, and nothing that makes it sample
    temperature > 0, unset              do_sample: true (unset alone would mean greedy)
    top_p 1 / 0                         omitted / 0.0001: only 0 < p < 1 is accepted
    max_completion_tokens, max_tokens   max_new_tokens, always sent
    stop                                the first four; the rest is cut by StopCutter
    seed (int64), choice k              seed + k as u64
    frequency_penalty                   the same
    presence_penalty, best_of over n    none: left out and named
    logprobs, top_logprobs              details, top_n_tokens (at most 5)
    response_format json_schema         grammar {"type": "json", "value": schema}
    tools with a forced tool_choice     the same grammar, over {"name", "arguments"}
    logit_bias, json_object alone,      none: refused, as leaving it out changes the answer
    custom tools
"""

from __future__ import annotations

import secrets
from typing import Any

from adapters.base import Json, Request, Task
from adapters.errors import DialectError

_MAX_STOPS = 4
_MAX_TOP_TOKENS = 5
_U64 = 2**64 - 1
_LEAST_TEMPERATURE = 1e-4
_LEAST_TOP_P, _MOST_TOP_P = 1e-4, 0.9999

# Said elsewhere in the native request, or by the gateway itself.
_HONOURED = frozenset(
    "model messages prompt stream stream_options n best_of echo seed stop temperature top_p "
    "max_tokens max_completion_tokens frequency_penalty logprobs top_logprobs response_format "
    "tools tool_choice parallel_tool_calls top_k typical_p repetition_penalty truncate "
    "watermark chat_template_kwargs".split()
)
# Records about the request rather than wishes about the answer.
_WITHOUT_EFFECT = frozenset(
    "user metadata safety_identifier prompt_cache_key prompt_cache_options "
    "prompt_cache_retention".split()
)
# Values that ask for what happens anyway.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "suffix": ("",),
    "verbosity": ("medium",),
}
# Leaving these out would change what the answer means.
_REFUSED = {
    "logit_bias": "The native API has no per-token bias.",
    "audio": "The native API answers text only.",
    "modalities": "The native API answers text only.",
    "functions": "Use 'tools' instead.",
    "function_call": "Use 'tool_choice' instead.",
    "suffix": "The native API cannot fill in the middle.",
}
_NATIVE_EXTRAS = ("top_k", "typical_p", "repetition_penalty", "watermark", "truncate")
_SAMPLING_EXTRAS = ("top_k", "typical_p")


def left_out(body: Json) -> tuple[str, ...]:
    """Return the names of the fields that the native API cannot honour and that may go.

    Raises DialectError for those that may not.
    """
    names: list[str] = []
    for name, value in body.items():
        if name in _HONOURED or name in _WITHOUT_EFFECT or value in _DEFAULTS.get(name, ()):
            continue
        if reason := _REFUSED.get(name):
            raise DialectError(f"{name!r} is not supported with this model. {reason}", param=name)
        names.append(name)
    if any(tool["type"] != "function" for tool in body.get("tools", ())):
        raise DialectError("The native API's models call functions only.", param="tools")
    if body.get("top_logprobs", 0) > (_MAX_TOP_TOKENS if body.get("logprobs") else 0):
        names.append("top_logprobs")
    if body.get("best_of", 1) > body.get("n", 1):
        names.append("best_of")
    return tuple(names)


def native_parameters(request: Request) -> Json:
    """Return `parameters` of one call, all but the seed.

    Raises DialectError for what the native API cannot say.
    """
    body = request.body
    return {
        "details": True,
        "return_full_text": False,
        "max_new_tokens": _max_new_tokens(request),
        **_sampling(body),
        **_extras(body),
        **_stops(body),
        **_top_tokens(request),
        **_grammar(request),
    }


def most_tokens(request: Request) -> int:
    """Return how many tokens each choice may have, the default where the client does not say."""
    body = request.body
    default = 16 if request.task is Task.COMPLETION else request.max_tokens_default
    wanted: int = body.get("max_completion_tokens") or body.get("max_tokens", default)
    return wanted


def samples(body: Json) -> bool:
    """Tell whether the answer is drawn at random (and not the likeliest one)."""
    return bool(body.get("temperature", 1) >= _LEAST_TEMPERATURE)


def seed_of(body: Json, choice: int, choices: int) -> int | None:
    """Return the seed of one choice: u64, distinct per choice; None leaves it to the server.

    Equal seeds would give equal choices, so several choices without a seed get random ones.
    """
    seed = body.get("seed")
    if seed is not None:
        return int(seed + choice) & _U64
    return secrets.randbits(63) if choices > 1 and samples(body) else None


def stops_of(body: Json) -> tuple[str, ...]:
    """Return all stop sequences that can match."""
    stop = body.get("stop") or ()
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


def offered_tools(body: Json) -> list[Json]:
    """Return those of `tools` that may be called, by `tool_choice`."""
    tools: list[Json] = body.get("tools", [])
    choice = body.get("tool_choice")
    if choice == "none":
        return []
    if not isinstance(choice, dict) or choice["type"] != "allowed_tools":
        return tools
    names = _allowed_names(choice)
    return [tool for tool in tools if tool.get("function", {}).get("name") in names]


def forced_tools(body: Json) -> list[Json]:
    """Return the functions of which one must be called, by `tool_choice`; empty if none must.

    Raises DialectError when the choice names a function that is not among `tools`, or when
    there are none.
    """
    choice = body.get("tool_choice")
    functions = [tool["function"] for tool in body.get("tools", ()) if tool["type"] == "function"]
    if choice == "required":
        if not functions:
            raise DialectError(
                "'tool_choice' asks for a call, but there are no 'tools'.",
                param="tool_choice",
                code="invalid_value",
            )
        return functions
    if not isinstance(choice, dict):
        return []
    if choice["type"] == "allowed_tools":
        if choice["allowed_tools"].get("mode") != "required":
            return []
        names = _allowed_names(choice)
    else:
        names = [choice.get("function", {}).get("name")]
    chosen = [function for function in functions if function["name"] in names]
    if not chosen:
        raise DialectError(
            f"'tool_choice' names {names[:1]!r}, which is not among 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )
    return chosen


def _allowed_names(choice: Json) -> list[Any]:
    tools = choice["allowed_tools"]["tools"]
    return [tool["function"]["name"] for tool in tools if "function" in tool]


def _max_new_tokens(request: Request) -> int:
    wanted = most_tokens(request)
    if wanted < 1:
        raise DialectError(
            "The native API makes at least one token.", param="max_tokens", code="invalid_value"
        )
    return wanted


def _sampling(body: Json) -> Json:
    if not samples(body):
        return {"do_sample": False}
    parameters: Json = {"do_sample": True}
    if "temperature" in body:
        parameters["temperature"] = body["temperature"]
    if body.get("top_p", 1) < 1:
        parameters["top_p"] = min(max(body["top_p"], _LEAST_TOP_P), _MOST_TOP_P)
    parameters |= {name: body[name] for name in _SAMPLING_EXTRAS if name in body}
    return parameters


def _extras(body: Json) -> Json:
    parameters = {
        name: body[name] for name in _NATIVE_EXTRAS if name in body and name not in _SAMPLING_EXTRAS
    }
    if body.get("frequency_penalty"):
        parameters["frequency_penalty"] = body["frequency_penalty"]
    return parameters


def _stops(body: Json) -> Json:
    stops = stops_of(body)[:_MAX_STOPS]
    return {"stop": list(stops)} if stops else {}


def _top_tokens(request: Request) -> Json:
    body = request.body
    if request.task is Task.COMPLETION:
        wanted = body.get("logprobs") or 0
    else:
        wanted = body.get("top_logprobs") or 0 if body.get("logprobs") else 0
    return {"top_n_tokens": min(wanted, _MAX_TOP_TOKENS)} if wanted else {}


def _grammar(request: Request) -> Json:
    body = request.body
    schema = _schema_of(body.get("response_format") or {})
    tools = forced_tools(body)
    if schema is not None and body.get("tools") and body.get("tool_choice") != "none":
        raise DialectError(
            "The native API cannot hold an answer to a schema and call tools in one request.",
            param="response_format",
        )
    if tools:
        schema = _call_schema(tools)
    return {"grammar": {"type": "json", "value": schema}} if schema is not None else {}


def _schema_of(response_format: Json) -> Json | None:
    """Return the schema asked for. `huggingface_hub` puts it under `value` of a json_object."""
    match response_format.get("type", "text"):
        case "text":
            return None
        case "json_schema":
            schema = response_format.get("json_schema", {}).get("schema")
        case _:
            schema = response_format.get("value") or response_format.get("schema")
    if isinstance(schema, dict):
        return schema
    raise DialectError(
        "The native API holds an answer to JSON only by a schema: send 'response_format' of type "
        "'json_schema' with 'json_schema.schema'.",
        param="response_format",
    )


def _call_schema(functions: list[Json]) -> Json:
    """Return the schema of one call of one of `functions`."""
    arguments = [function.get("parameters") or {"type": "object"} for function in functions]
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [function["name"] for function in functions]},
            "arguments": arguments[0] if len(arguments) == 1 else {"anyOf": arguments},
        },
        "required": ["name", "arguments"],
    }
