"""What clients of the native API send: JSON with `inputs`, or a sound or a picture itself.

Only what the gateway must know is looked into. All else reaches servers that speak the native API
as it came, down to the spelling of its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from adapters.base import Json
from adapters.native_calls import Operation
from gateway.audio import CONTENT_TYPES as SOUNDS
from gateway.audio import sniff as sniff_sound
from gateway.errors import BadRequest
from gateway.images import CONTENT_TYPES as PICTURES
from gateway.images import sniff as sniff_picture

JSON = "application/json"

_UNSAID = frozenset({"", "application/x-www-form-urlencoded", "application/octet-stream"})
_OBEYED_HERE = frozenset({"use_cache", "wait_for_model"})
_ONE_TYPE = re.compile(r"(?:image|audio)/[\w.+-]+")

_TYPES = SOUNDS | {"ogg": "audio/ogg", "m4a": "audio/mp4", "webm": "audio/webm"} | PICTURES

_Members = Mapping[str, msgspec.Raw]
_read_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRequest:
    """One request to a model. `accept`: the type of picture or sound that it asks for, if one.

    `members` are those of its JSON object, spelt as they came; without them `data` is a sound or a
    picture. `pipeline`: the native name of the task, where the path told it.
    """

    data: bytes
    content_type: str
    accept: str = ""
    operation: Operation = Operation.PREDICT
    pipeline: str | None = None
    members: _Members = field(default_factory=dict)
    inputs: Any = None
    parameters: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)

    @property
    def is_json(self) -> bool:
        """Whether it is an object, and no sound or picture itself."""
        return bool(self.members)

    @property
    def asks_stream(self) -> bool:
        """Whether a text is to be streamed. `/generate` does not know the field."""
        match self.operation:
            case Operation.GENERATE_STREAM:
                return True
            case Operation.GENERATE:
                return False
            case _:
                return bytes(self.members.get("stream", b"")) == b"true"

    @property
    def text(self) -> str:
        """Its `inputs`. Raises BadRequest if they are no text."""
        if isinstance(self.inputs, str):
            return self.inputs
        raise invalid("`inputs` must be a string", param="inputs")

    @property
    def draws(self) -> bool:
        """Whether a text is drawn at random (TGI 3.3, server/…/utils/tokens.py).

        Without any parameters it is, with some only if one of them says so.
        """
        given = self.parameters
        if not given:
            return True
        return bool(
            given.get("do_sample")
            or given.get("temperature", 1) != 1
            or given.get("top_k")
            or given.get("top_p", 1) != 1
            or given.get("typical_p", 1) != 1
        )

    def option(self, name: str) -> bool | None:
        """Return an option of the body, None if it is not there."""
        value = self.options.get(name)
        return value if isinstance(value, bool) else None

    def payload(self, changes: Mapping[str, Any] | None = None) -> bytes:
        """Return the body to be sent: as it came, but for `changes` and for what is obeyed here.

        A member that is changed to None is left out.
        """
        changed = dict(changes or {})
        if self.options.keys() & _OBEYED_HERE:
            kept = {name: self.options[name] for name in self.options.keys() - _OBEYED_HERE}
            changed["options"] = kept or None
        changed = {name: value for name, value in changed.items() if self._differs(name, value)}
        if not changed:
            return self.data
        members = {**self.members, **changed}
        return msgspec.json.encode({k: v for k, v in members.items() if v is not None})

    def _differs(self, name: str, value: Any) -> bool:
        return value is not None or name in self.members


def parse_native(
    data: bytes,
    *,
    content_type: str,
    accept: str = "",
    operation: Operation = Operation.PREDICT,
    pipeline: str | None = None,
) -> NativeRequest:
    """Return the request that this body is. Raises BadRequest for JSON that is none."""
    kind = content_type.partition(";")[0].strip().lower()
    asked = NativeRequest(
        data=data,
        content_type=JSON,
        accept=accept if _ONE_TYPE.fullmatch(accept) else "",
        operation=operation,
        pipeline=pipeline,
    )
    if kind == JSON or kind.endswith("+json") or (kind in _UNSAID and data.lstrip()[:1] == b"{"):
        return _with_members(asked)
    return replace(asked, content_type=_media_type(data, kind))


def invalid(sentence: str, *, param: str) -> BadRequest:
    """Return the refusal of a value, with the status and in the words of TGI."""
    return BadRequest(
        f"Input validation error: {sentence}", status=422, code="invalid_value", param=param
    )


def _with_members(asked: NativeRequest) -> NativeRequest:
    """Return a request whose body is JSON. Raises BadRequest for another one."""
    try:
        members = _read_members(asked.data)
        inputs = msgspec.json.decode(members.get("inputs", b"null"))
        parameters, options = (_object(members, name) for name in ("parameters", "options"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(
            "We could not read the body of your request: expected a JSON object.",
            code="invalid_json",
        ) from None
    if "inputs" not in members:
        raise invalid("missing field `inputs`", param="inputs")
    return replace(asked, members=members, inputs=inputs, parameters=parameters, options=options)


def _object(members: _Members, name: str) -> Json:
    """Return a member without its nulls. Raises BadRequest if it is no object."""
    value = msgspec.json.decode(members.get(name, b"null"))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"`{name}` must be an object", param=name)
    return {key: each for key, each in value.items() if each is not None}


def _media_type(data: bytes, said: str) -> str:
    """Return what `data` is: clients send sounds without a type, or with a wrong one."""
    form = sniff_sound(data) or sniff_picture(data) or ""
    return _TYPES.get(form) or said or "application/octet-stream"
