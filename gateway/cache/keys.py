"""Under which key an answer is kept: a digest of all that it depends on, and names in the store.

Two spellings of one request have one digest; two requests that could be answered differently have
two. What decides:

    members of a body, of its `parameters`  | sorted: they are looked up by name
      and `options`, of a message, a part   |
      of its content, an `image_url`; of    |
      the form                              |
    members of all else: `tools`, schemas,  | in their order: templates and grammars write them
      grammars, template arguments, extras  | out as they stand
    items of arrays                         | in their order: it is part of what is meant
    numbers                                 | by value, exactly: 1, 1.0 and 1e0 are one, -0.0 is 0
    `true` and 1, `null` and nothing        | differ: templates can tell them apart
    texts                                   | by code points: JSON's escapes are spelling, but no
                                            | server makes é of e and ´
    bodies that are no JSON                 | by their bytes and type: sounds, pictures
    parts of a multipart body               | by their bytes, without the boundary: it is drawn
                                            | for each request
    headers                                 | `accept`: the others tell who asks, and how
    `Call.index`                            | left out: it is the client's counting

All of it is one JSON document, so that no text can pass for structure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import (
    MAX_EMAX,
    MAX_PREC,
    MIN_EMIN,
    Context,
    Inexact,
    InvalidOperation,
    Overflow,
)
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from adapters.base import Call
from gateway.tapes import Recipe

VERSION = 1  # of the rules above: another one, and no answer of before is found

Scope = Literal["key", "team", "global"]

_Shape = Mapping[str, "_Shape"]
_PART: _Shape = {"image_url": {}}
_MESSAGE: _Shape = {"content": _PART}
_BODY: _Shape = {"parameters": {}, "options": {}, "messages": _MESSAGE}
_FORM: _Shape = {}

_EXACT = Context(
    prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Inexact, Overflow]
)
_LARGEST_EXPONENT = 400  # beyond any float's: larger integers keep it, for want of memory
_BOUNDARY = "multipart/form-data; boundary="

_quote = partial(quote, safe="")


class Ingredients(NamedTuple):
    """All that a key is made of, in its order. `media`: their SHA-256."""

    version: int
    scope: str
    task: str
    model: str
    target: str
    calls: Sequence[tuple[Any, ...]]
    form: Any
    media: str | None


def digest(recipe: Recipe, *, scope: str, task: str, model: str, target: str) -> str:
    """Return the key of what `recipe` makes: a SHA-256 in hexadecimal digits.

    The parameters are those of `ingredients`. Takes 1 ms per MB of text. Raises UnicodeEncodeError
    for half a surrogate pair.
    """
    parts = ingredients(recipe, scope=scope, task=task, model=model, target=target)
    return hashlib.sha256(_encode(parts)).hexdigest()


def ingredients(recipe: Recipe, *, scope: str, task: str, model: str, target: str) -> Ingredients:
    """Return what the key of `recipe` is made of.

    `scope` is who may share it, `model` the gateway's id of the model, `target` the upstream's
    name of it.
    """
    return Ingredients(
        version=VERSION,
        scope=scope,
        task=task,
        model=model,
        target=target,
        calls=[_canonical_call(call) for call in recipe.calls],
        # Through JSON, so that its numbers are written as those of the bodies are.
        form=_sort(_decode(_encode(recipe.form)), _FORM),
        media=hashlib.sha256(recipe.media).hexdigest() if recipe.media else None,
    )


def scope_of(setting: Scope, key_id: str, team: str | None) -> str:
    """Return who may share an answer: `key.Ab3dEf9h`, `team.red` or `global`.

    A key without a team shares with nobody, unless everybody does.
    """
    if setting == "global":
        return setting
    if setting == "team" and team is not None:
        return f"team.{_quote(team)}"
    return f"key.{_quote(key_id)}"


def storage_key(digest: str, *, model: str, scope: str) -> str:
    """Return where an answer is kept. `scope` is one of `scope_of`."""
    return f"answer:{{{digest}}}:{_quote(model)}:{scope}"


def parse_storage_key(key: str) -> tuple[str, str] | None:
    """Return the digest and the model's id of a `storage_key`, None for what is none."""
    match key.split(":"):
        case ["answer", name, model, _] if name[:1] == "{" and name[-1:] == "}":
            return name[1:-1], unquote(model)
        case _:
            return None


def lock_key(digest: str) -> str:
    """Return where it is noted that an answer is being made; on the shard of the answer."""
    return f"flight:{{{digest}}}"


def pattern(model: str | None = None, scope: str | None = None) -> str:
    """Return the glob, as of SCAN's MATCH, of all answers, of those of a model or of a scope."""
    # Quoted names hold neither `:` nor what is special in a glob.
    return f"answer:*:{'*' if model is None else _quote(model)}:{scope or '*'}"


def _canonical_call(call: Call) -> tuple[Any, ...]:
    headers = {name.lower(): value for name, value in call.headers.items()}
    kind = headers.get("content-type")
    path = f"{call.path}?{call.query}" if call.query else call.path
    return (call.method, path, headers.get("accept"), *_canonical_body(call.body, kind))


def _canonical_body(body: bytes, kind: str | None) -> tuple[Any, ...]:
    if kind is None or kind.startswith("application/json"):
        try:
            return "json", _sort(_decode(body), _BODY)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    if kind is not None and kind.startswith(_BOUNDARY):
        boundary = b"--" + kind.removeprefix(_BOUNDARY).encode()
        return "parts", [hashlib.sha256(part).hexdigest() for part in body.split(boundary)]
    return "bytes", kind, hashlib.sha256(body).hexdigest()


def _sort(value: Any, shape: _Shape) -> Any:
    """Return `value` with the members in order where theirs does not count: at what has a shape."""
    if type(value) is list:
        return [_sort(one, shape) for one in value]
    if type(value) is not dict:
        return value
    return {
        name: _sort(value[name], shape[name]) if name in shape else value[name]
        for name in sorted(value)
    }


def _number(text: str) -> int | msgspec.Raw:
    """Return what stands for a number that is written with a fraction or an exponent."""
    try:
        number = _EXACT.normalize(_EXACT.create_decimal(text))
    except ArithmeticError:  # an exponent of nineteen digits
        return msgspec.Raw(text.encode())
    is_whole = number == number.to_integral_value(context=_EXACT)
    if is_whole and number.adjusted() <= _LARGEST_EXPONENT:
        return int(number)
    return msgspec.Raw(str(number).encode())


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=_number).decode
