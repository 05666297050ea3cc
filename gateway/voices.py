"""The voices of a speech model: what clients may call them, and what the upstream does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.base import Json
from gateway.errors import BadRequest

# The built-in voices of OpenAI's models, which clients ask for whatever stands behind the name.
OPENAI_VOICES = tuple(
    "alloy ash ballad coral echo fable onyx nova sage shimmer verse marin cedar".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """`named`: the client's name → the upstream's. `default`: the upstream's name of the one that
    OpenAI's names stand for; None where it has but one, which needs no name.

    `parameter_names`: OpenAI's parameter → the native one, for those that the model has.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    parameter_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> tuple[str, ...]:
        """The names that can be asked for, each once."""
        names = dict.fromkeys(self.named)
        if self.default or not self.named:
            names |= dict.fromkeys((*OPENAI_VOICES, *filter(None, [self.default])))
        return tuple(names)

    def resolve(self, asked: str | Json, *, is_open: bool) -> str | Json | None:
        """Return what the upstream is to be told, None for nothing.

        `is_open`: the upstream knows its voices, so what is not configured here goes on as it
        came. Raises BadRequest listing the names that are known.
        """
        name = asked if isinstance(asked, str) else str(asked["id"])
        if name in self.named:
            return self.named[name]
        if is_open and not self.named and not (self.default and name in OPENAI_VOICES):
            return asked
        if name in self.known:
            return self.default
        raise BadRequest(
            f"Invalid value for 'voice': {name[:60]!r}. "
            f"Supported values are: {', '.join(map(repr, self.known))}.",
            code="invalid_value",
            param="voice",
        )
