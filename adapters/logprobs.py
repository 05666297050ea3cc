"""Log probabilities of tokens, in the two forms that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Json
from adapters.errors import Interrupted


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer. `offset`: where its text begins, in characters of the answer."""

    text: str
    logprob: float
    offset: int = 0
    top: tuple[tuple[str, float], ...] = ()


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> Json:
    """Return `choices[].logprobs` of a chat: one object per token."""
    return {
        "content": [
            _chat_token(token.text, token.logprob)
            | {"top_logprobs": [_chat_token(*top) for top in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[TokenLogprob]) -> Json:
    """Return `choices[].logprobs` of a legacy completion: one list per property."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


class _Rival(msgspec.Struct, frozen=True):
    token: str
    logprob: float


class _ChatToken(_Rival, frozen=True):
    top_logprobs: list[_Rival] | None = None


def read_chat_logprobs(content: Any, *, offset: int) -> Iterator[TokenLogprob]:
    """Yield the tokens of `content`, a chat's; the first begins at `offset`. Raises Interrupted."""
    try:
        tokens = msgspec.convert(content, list[_ChatToken])
    except msgspec.ValidationError as exc:
        raise Interrupted("The upstream's log probabilities cannot be read.") from exc
    for token in tokens:
        top = tuple((rival.token, rival.logprob) for rival in token.top_logprobs or ())
        yield TokenLogprob(token.token, token.logprob, offset, top)
        offset += len(token.token)


def _chat_token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
