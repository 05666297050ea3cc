"""Uploads: `multipart/form-data` as it arrives, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from gateway.errors import BadRequest
from gateway.wire import ClientGone, header

if TYPE_CHECKING:
    from litestar.types import Receive, Scope

_MOST_PARTS = 128
_HEADER_BYTES = 4096  # one header line of a part
_FIELD_BYTES = 1_000_000  # all text fields together; a prompt is the longest
_BODY_SECONDS = 300.0  # 25 MB take that long at 0.7 Mbit/s


@dataclass(frozen=True, slots=True)
class File:
    """One uploaded file; `name` is the client's word and says nothing about the content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """Text fields in the order sent, repeated ones under one name; files likewise.

    Names are kept as they come, so a list of the SDKs is found under `timestamp_granularities[]`.
    """

    fields: Mapping[str, list[str]]
    files: Mapping[str, list[File]]

    def text(self, name: str) -> str | None:
        """Return a field's last value."""
        return self.fields[name][-1] if name in self.fields else None

    def texts(self, name: str) -> list[str]:
        """Return all values of a list, whether its name was sent with brackets or without."""
        return [*self.fields.get(name, ()), *self.fields.get(f"{name}[]", ())]

    def file(self, name: str = "file") -> File:
        """Return the one file of that name. Raises BadRequest if there is none, or more."""
        found = self.files.get(name, [])
        if not found:
            sent_as_text = name in self.fields
            raise BadRequest(
                f"Invalid type for {name!r}: expected a file, but got a string instead."
                if sent_as_text
                else f"Missing required parameter: {name!r}.",
                code="invalid_type" if sent_as_text else "missing_required_parameter",
                param=name,
            )
        if len(found) > 1:
            raise BadRequest(
                f"Invalid {name!r}: expected one file, but got {len(found)}.",
                code="array_above_max_length",
                param=name,
            )
        return found[0]


async def read_form(scope: Scope, receive: Receive, *, limit_bytes: int) -> Form:
    """Return the request's form.

    Raises BadRequest for another content type (415), for more than `limit_bytes`, 128 parts or
    1 MB of text (413), for what is no form (400) or takes over five minutes (408); ClientGone.
    """
    parser = PushMultipartParser(
        _boundary(scope),
        max_header_size=_HEADER_BYTES,
        max_segment_count=_MOST_PARTS,
    )
    length = header(scope, b"content-length")
    if length.isdecimal() and int(length) > limit_bytes:
        raise _too_large(f"over the limit of {limit_bytes} bytes")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            with _parser_errors():
                return await _receive_form(receive, parser, limit_bytes)
    except TimeoutError:
        raise BadRequest(
            "The request's body did not arrive in time.", status=408, code="request_timeout"
        ) from None


async def _receive_form(receive: Receive, parser: PushMultipartParser, limit_bytes: int) -> Form:
    parts = _Parts()
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        data, more = message.get("body", b""), message.get("more_body", False)
        size += len(data)
        if size > limit_bytes:
            raise _too_large(f"over the limit of {limit_bytes} bytes")
        if data:
            for event in parser.parse(data):
                parts.take(event)
    parser.close()
    return Form(parts.fields, parts.files)


@dataclass(slots=True)
class _Parts:
    """The form so far."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[File]] = field(default_factory=dict)
    _text_bytes: int = 0
    _segment: MultipartSegment | None = None
    _data: bytearray = field(default_factory=bytearray)

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take the parser's next event: a part's head, some of its body, or None at its end."""
        if isinstance(event, MultipartSegment):
            self._segment, self._data = event, bytearray()
        elif event is not None:
            self._extend(event)
        elif self._segment is not None:
            self._finish(self._segment)

    def _extend(self, data: bytes | bytearray) -> None:
        self._data += data
        if self._segment is not None and self._segment.filename is None:
            self._text_bytes += len(data)
            if self._text_bytes > _FIELD_BYTES:
                raise _too_large(f"over {_FIELD_BYTES} bytes of text", param=self._segment.name)

    def _finish(self, segment: MultipartSegment) -> None:
        name = segment.name
        if segment.filename is not None:
            self.files.setdefault(name, []).append(File(segment.filename, bytes(self._data)))
            return
        try:
            text = self._data.decode()
        except UnicodeDecodeError:
            raise BadRequest(
                f"Invalid type for {name[:200]!r}: expected UTF-8 text, or a file with a name.",
                code="invalid_type",
                param=name[:200],
            ) from None
        self.fields.setdefault(name, []).append(text)


def _boundary(scope: Scope) -> str:
    kind, options = parse_options_header(header(scope, b"content-type"))
    if kind != "multipart/form-data":
        raise BadRequest(
            f"Unsupported content type: {kind[:80]!r}. Send the body as multipart/form-data.",
            status=415,
            code="unsupported_content_type",
        )
    boundary = str(options.get("boundary", ""))
    if not 0 < len(boundary) <= 70 or not boundary.isascii():  # RFC 2046 §5.1.1
        raise BadRequest(
            "The content type names no boundary of 1 to 70 characters.", code="invalid_multipart"
        )
    return boundary


@contextmanager
def _parser_errors() -> Iterator[None]:
    try:
        yield
    except ParserLimitReached:
        raise _too_large(
            f"over {_MOST_PARTS} parts, or a part's header over {_HEADER_BYTES} bytes"
        ) from None
    except MultipartError:
        raise BadRequest(
            "The request's body is no whole multipart/form-data.", code="invalid_multipart"
        ) from None


def _too_large(what: str, *, param: str | None = None) -> BadRequest:
    return BadRequest(
        f"The request's body is {what}.", status=413, code="request_too_large", param=param
    )
