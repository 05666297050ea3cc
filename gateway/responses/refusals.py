"""Errors in the words of the Responses API: a chat's parameters have other names there."""

from __future__ import annotations

from gateway.errors import GatewayError

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}


def in_own_words(error: GatewayError) -> GatewayError:
    """Return `error`, changed in place: it names the client's parameter instead of the chat's.

    Places inside of messages are left out, as messages are not items one for one.
    """
    param = error.param or ""
    name = _NAMES.get(param.partition("[")[0].partition(".")[0])
    if name is not None:
        error.message = error.message.replace(repr(param), repr(name))
        error.param = name
    return error
