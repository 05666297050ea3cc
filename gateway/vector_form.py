"""The form in which a client wants its embeddings: how long they are, and how written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Json
from adapters.errors import Interrupted, Misconfigured
from gateway.config_catalog import Embedding
from gateway.errors import BadRequest
from gateway.upstreams.target import Model
from gateway.vectors import Vector, is_sound, pool, shorten, to_base64


@dataclass(frozen=True, slots=True)
class VectorForm:
    """What is done to each of an upstream's vectors. `dimensions`: what the client is to get.

    `upstream_body` is the client's body without what is done here.
    """

    upstream_body: Json
    model: str
    options: Embedding
    as_base64: bool
    dimensions: int | None
    shortens: bool

    @classmethod
    def of(cls, body: Json, model: Model) -> VectorForm:
        """Return it for a request. Raises BadRequest for a length that the model cannot have.

        A length that the model's configuration does not speak of is left to the upstream.
        """
        options, dimensions = model.embedding, body.get("dimensions")
        shortens = dimensions is not None and bool(options.matryoshka or options.dimensions)
        if shortens and options.dimensions and dimensions not in options.dimensions:
            known = ", ".join(map(str, options.dimensions))
            raise BadRequest(
                f"Invalid value for 'dimensions': {dimensions}. Supported values are: {known}.",
                code="invalid_value",
                param="dimensions",
            )
        kept = {k: v for k, v in body.items() if not (shortens and k == "dimensions")}
        as_base64 = body.get("encoding_format") == "base64"
        return cls(kept, model.id, options, as_base64, dimensions, shortens)

    @property
    def obeyed(self) -> Json:
        """What decides what becomes of a vector; whether it is shortened, the call shows."""
        return {
            "pooling": self.options.pooling,
            "dimensions": self.dimensions,
            "as_base64": self.as_base64,
        }

    def __call__(self, found: Any) -> bytes:
        """Return an upstream's vector, or its vectors per token, as JSON.

        Raises UpstreamError, and BadRequest for a length that the client cannot have.
        """
        vector = self._sized(self._pooled(found))
        try:
            wanted = to_base64(vector) if self.as_base64 else vector
        except OverflowError as exc:
            raise Interrupted("The upstream's embedding holds a number too large.") from exc
        return msgspec.json.encode(wanted)

    def _pooled(self, found: Any) -> Vector:
        per_token = bool(found) and not isinstance(found[0], float)
        rows = found if per_token else [found]
        if len({len(row) for row in rows}) != 1 or not all(map(is_sound, rows)):
            raise Interrupted("The upstream's embedding is empty, uneven or not finite.")
        if not per_token:
            vector: Vector = found
            return vector
        if self.options.pooling is None:
            raise Misconfigured(
                f"The upstream of {self.model!r} answers with one embedding per token: its "
                'operator must set \'embedding.pooling\' to "mean" or "cls".'
            )
        return pool(rows, self.options.pooling)

    def _sized(self, vector: Vector) -> Vector:
        if self.dimensions is None or len(vector) == self.dimensions:
            return vector
        if self.shortens and len(vector) > self.dimensions:
            return shorten(vector, self.dimensions)
        raise BadRequest(
            f"Invalid value for 'dimensions': {self.dimensions}. The model's embeddings have "
            f"{len(vector)}.",
            code="invalid_value",
            param="dimensions",
        )
