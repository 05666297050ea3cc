"""What the tasks of the native task API, `POST {base}/models/{id}`, have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from adapters.base import Call

_UNUSED = re.compile(r"`model_kwargs` are not used by the model: \[([^\]]*)\]")
# What the answer can do without: stop sequences are cut here anyway, tokens are counted or guessed.
_DISPENSABLE = frozenset({"details", "decoder_input_details", "stop", "watermark"})
_MOST_DIGITS = 15  # of a count that is believed; Python refuses to read some thousand


def model_path(model: str) -> str:
    """Return the path of `model`, `/` without one: an endpoint's root holds one model only."""
    return f"/models/{model}" if model else "/"


def told_count(headers: Mapping[str, str], *names: str) -> int | None:
    """Return the count in the first header of `names` that is there, None if it is no number."""
    told = next((headers[name] for name in names if name in headers), "")
    return int(told) if told.isdecimal() and len(told) <= _MOST_DIGITS else None


def unused_parameters(message: str) -> frozenset[str]:
    """Return the parameters that a pipeline of `transformers` refuses, if they can be left out.

    It refuses what is text-generation-inference's own, all of it at once, by a sentence. Empty for
    any other sentence, and where a parameter is among them that the answer depends on.
    """
    found = _UNUSED.search(message)
    names = frozenset(name.strip(" '\"") for name in found[1].split(",")) if found else frozenset()
    return names if names <= _DISPENSABLE else frozenset()


def without_parameters(call: Call, names: frozenset[str]) -> Call:
    """Return `call` without these of its `parameters`."""
    if not names:
        return call
    payload = msgspec.json.decode(call.body)
    parameters = payload.get("parameters", {})
    payload["parameters"] = {name: parameters[name] for name in parameters if name not in names}
    return replace(call, body=msgspec.json.encode(payload))
