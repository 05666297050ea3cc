"""One call's answer of text: how it is made, and what it depends on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from adapters.base import Call, Json, Plan
from adapters.errors import Interrupted
from gateway.answers import arguments_text, finish_reason_of
from gateway.call_ids import CallIds, complete_whole
from gateway.folding import chunks_of, fold
from gateway.tapes import Piece, Recipe
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand

_DELIVERY = frozenset(("stream", "stream_options"))
_ENVELOPE = ("id", "object", "created", "model")
_IN_CALL = frozenset(("model", "messages", "prompt"))
# What happens anyway where one choice is asked for. Equal means of the same type too: a
# completion's `logprobs` of 0 asks for those of the tokens that were drawn.
_DEFAULTS: Json = {"n": 1, "best_of": 1, "logprobs": False, "echo": False}


class Recipes:
    """What the answers of a request's calls depend on, planned when it is first asked for.

    `plan` is how the request is sent. A request whose answer is drawn anew each time is written
    down with the seed 0, because dialects may draw seeds for it, and marked as unseeded.
    """

    def __init__(self, errand: Errand, plan: Plan) -> None:
        self._errand = errand
        self._sent = plan
        self.is_repeatable = _is_repeatable(errand.request.body)

    def of(self, at: int) -> Recipe:
        """Return the recipe of the call at this place. Its place counts: the answer tells it."""
        form = self._form | {"index": self._plan.calls[at].index}
        return Recipe(
            calls=self._plan.calls[at : at + 1],
            form=form if self.is_repeatable else form | {"unseeded": True},
        )

    @cached_property
    def _plan(self) -> Plan:
        request = self._errand.request
        body = self._body if self.is_repeatable else self._body | {"seed": 0}
        if not request.stream and body == request.body:
            return self._sent
        return self._errand.translator.plan(replace(request, stream=False, body=body))

    @cached_property
    def _body(self) -> Json:
        body = self._errand.request.body
        return {
            name: value
            for name, value in body.items()
            if name not in WITHOUT_EFFECT
            and name not in _DELIVERY
            and not _is_default(name, value, body)
        }

    @cached_property
    def _form(self) -> Json:
        unused = _IN_CALL.union(self._plan.ignored)
        return {name: value for name, value in self._body.items() if name not in unused}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """One call of a request, the one at the place `at`. `choices`: how many come of it."""

    errand: Errand
    call: Call
    at: int
    choices: int
    recipes: Recipes

    @property
    def calls(self) -> tuple[Call]:
        """The only one."""
        return (self.call,)

    def recipe(self) -> Recipe:
        """Return what the answer depends on. Several images take as long as planning them does."""
        return self.recipes.of(self.at)

    def make(self) -> AsyncGenerator[Piece]:
        """Yield the answer, as `gateway.folding` has it. Raises UpstreamError."""
        return self._streamed() if self.errand.request.stream else self._whole()

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether all choices came to a good end, and all that is called can be called."""
        if not (pieces and pieces[-1].is_last):
            return False
        reasons: dict[int, str] = {}
        are_called = False
        for choice in _choices_of(pieces):
            if reason := choice.get("finish_reason"):
                reasons.setdefault(choice.get("index") or 0, reason)
            are_called = are_called or bool((choice.get("delta") or {}).get("tool_calls"))
        if len(reasons) != self.choices or not all(map(_ended_well, reasons.values())):
            return False
        return not are_called or all(map(_can_all_be_called, fold(pieces)["choices"]))

    async def _streamed(self) -> AsyncGenerator[Piece]:
        [source] = await sending.stream(self.errand, self.calls)
        ids = CallIds()
        try:
            if source.whole is not None:
                yield Piece([None, complete_whole(source.whole)], source.is_done)
                return
            tokens, is_last = source.tokens, source.is_done
            yield Piece([tokens, ids.complete(_bare(source.first))], is_last)
            while not is_last:
                chunks = await source.read()
                before, tokens, is_last = tokens, source.tokens, source.is_done
                if chunks or is_last or tokens != before:
                    yield Piece([tokens, ids.complete(_bare(chunks))], is_last)
        finally:
            await source.aclose()

    async def _whole(self) -> AsyncGenerator[Piece]:
        [answer] = await sending.fetch(self.errand, self.calls)
        yield Piece([None, complete_whole(answer)], is_last=True)


def _bare(chunks: list[Json]) -> list[Json]:
    """Return the chunks without what the gateway says itself, in each of them."""
    for chunk in chunks:
        for name in _ENVELOPE:
            chunk.pop(name, None)
    return chunks


def _is_repeatable(body: Json) -> bool:
    """Tell whether the client can expect the same answer again: it is seeded or greedy."""
    return "seed" in body or body.get("temperature") == 0


def _is_default(name: str, value: object, body: Json) -> bool:
    """Tell whether this field asks for what happens anyway."""
    if name == "best_of" and body.get("n", 1) != 1:
        return False  # less than `n`, which some servers refuse
    default = _DEFAULTS.get(name)
    return type(value) is type(default) and value == default


def _choices_of(pieces: Sequence[Piece]) -> Iterator[Json]:
    for piece in pieces:
        for chunk in chunks_of(piece):
            yield from chunk.get("choices") or ()


def _ended_well(reason: str) -> bool:
    try:
        finish_reason_of(reason, called=False)
    except Interrupted:
        return False
    return True


def _can_all_be_called(choice: Json) -> bool:
    return all(map(_can_be_called, (choice.get("message") or {}).get("tool_calls") or ()))


def _can_be_called(call: Json) -> bool:
    """Tell whether the arguments of a function are JSON. Other tools take any text."""
    if "custom" in call:
        return True
    arguments = arguments_text((call.get("function") or {}).get("arguments"))
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return False
    return True
