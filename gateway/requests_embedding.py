"""The body of `POST /v1/embeddings`. Source: the types of the official Python SDK, 3.54."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import Field, TypeAdapter

from gateway.requests import Items, OpenObject

_MOST_INPUTS = 2048
_MOST_TOKENS = 2**20

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[Items[int], Field(min_length=1, max_length=_MOST_TOKENS)]
Input = (
    Text
    | Annotated[Items[Text], Field(min_length=1, max_length=_MOST_INPUTS)]
    | Tokens
    | Annotated[Items[Tokens], Field(min_length=1, max_length=_MOST_INPUTS)]
)


class EmbeddingRequest(OpenObject, total=False):
    """`POST /v1/embeddings`."""

    model: Required[str]
    input: Required[Input]
    dimensions: Annotated[int, Field(ge=1, le=2**16)] | None
    encoding_format: Literal["float", "base64"] | None
    user: str | None
    # Not OpenAI's, but what the native API takes.
    normalize: bool | None
    truncate: bool | None
    truncation_direction: str | None
    prompt_name: str | None


EMBEDDING: TypeAdapter[Any] = TypeAdapter(EmbeddingRequest)
