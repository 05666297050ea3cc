"""Images: each call's pictures are a part, brought into the client's format; one answer or a stream
of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from adapters.base import Call, Json, Request
from gateway.amounts import Usage
from gateway.errors import BadRequest, GatewayError
from gateway.exchange import Body, Exchange, Route
from gateway.image_files import PATH, ImageFiles
from gateway.image_stream import ImageStream
from gateway.images import sniff
from gateway.pictures import Picture, develop, render_answer, render_event
from gateway.tapes import Piece, Recipe, Tape, close_all
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.threads import Threads
from gateway.together import all_of
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand

_DEVELOPED_AT_ONCE = 2  # each holds a decoded image, 4 bytes per pixel
_OBEYED_HERE = ("output_format", "output_compression")
_TOLD = ("background", "quality", "usage")  # of all pictures of a call


class ImageTask:
    """Answers an exchange with images. `files` keeps those that are asked for by address."""

    def __init__(self, files: ImageFiles | None) -> None:
        self._files = files
        self._developing = Threads(_DEVELOPED_AT_ONCE)

    async def prepare(self, exchange: Exchange, route: Route) -> ImageJob:
        """Return the calls that make the images. Raises GatewayError, DialectError."""
        if _by_address(exchange) and self._files is None:
            raise BadRequest(
                "This gateway has no place for files: ask for 'b64_json'.",
                code="invalid_value",
                param="response_format",
            )
        target = route.target
        request = Request(
            task=exchange.task,
            model=target.model,
            body=exchange.body,
            use_cache=exchange.use_upstream_cache,
        )
        errand = exchange.errand(route, request)
        plan = errand.translator.plan(request)
        exchange.ignored = plan.ignored + _unfulfilled(exchange.body)
        parts = [
            _CallPart(
                errand=errand,
                call=call,
                made_of=recipe,
                developing=self._developing,
            )
            for call, recipe in zip(plan.calls, _recipes(errand), strict=True)
        ]
        return ImageJob(
            exchange=exchange,
            files=self._files,
            parts=parts,
            estimate=Usage(images=exchange.body.get("n", 1)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _CallPart:
    """The pictures of one call; there are several only where the upstream makes them together.

    It yields how many images came, then `[pictures, told]`: the pictures packed, and as JSON what
    the upstream tells of all of them.
    """

    errand: Errand
    call: Call
    made_of: Recipe
    developing: Threads

    @property
    def calls(self) -> tuple[Call]:
        """The only one."""
        return (self.call,)

    def recipe(self) -> Recipe:
        """Return what the pictures depend on."""
        return self.made_of

    async def make(self) -> AsyncGenerator[Piece]:
        """Have them painted, and finish them. Raises UpstreamError."""
        [answer] = await sending.fetch(self.errand, self.calls)
        # They are not decoded yet.
        yield Piece(sum(sniff(image["media"].data) is not None for image in answer["data"]))
        pictures = [await self._develop(image, answer) for image in answer.pop("data")]
        told = {name: answer[name] for name in _TOLD if name in answer}
        yield Piece([pictures, msgspec.json.encode(told)], is_last=True)

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether there are pictures."""
        return bool(pieces) and pieces[-1].is_last and len(pieces[-1].content[0]) > 0

    async def _develop(self, image: Json, answer: Json) -> list[Any]:
        form, compression = map(self.errand.request.body.get, _OBEYED_HERE)
        if form and answer.get("output_format") == form:
            compression = None  # the upstream knows the two parameters: it has obeyed both
        extra = {name: value for name, value in image.items() if name != "media"}
        picture = await self.developing.run(
            develop, image.pop("media").data, form, compression=compression, extra=extra
        )
        return picture.packed


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageJob:
    """What one exchange gets of its pictures. `files` keeps those that it wants by address."""

    exchange: Exchange
    files: ImageFiles | None
    parts: Sequence[_CallPart]
    estimate: Usage

    @property
    def is_repeatable(self) -> bool:
        """Whether the client has said which pictures it wants, of all that could be made."""
        return "seed" in self.exchange.body

    async def answer(self, tapes: Sequence[Tape]) -> Body | ImageStream:
        """Return the answer, a stream once its first image is there.

        Raises GatewayError, UpstreamError.
        """
        return await (self._stream(tapes) if self.exchange.is_stream else self._whole(tapes))

    async def _whole(self, tapes: Sequence[Tape]) -> Body:
        try:
            sources = [tape.pieces() for tape in tapes]
            with self.exchange.waiting():
                await all_of([self._count(source) for source in sources])
            finished = [await self._finished(source) for source in sources]
        finally:
            await close_all(tapes)
        pictures = [picture for pictures, _ in finished for picture in pictures]
        told = finished[0][1] if len(finished) == 1 else {}
        return Body(render_answer(self.exchange.created, pictures, told))

    async def _stream(self, tapes: Sequence[Tape]) -> ImageStream:
        """Return the events, once the first image is there. Raises what its making raised."""
        makers = [asyncio.create_task(self._events(tape)) for tape in tapes]
        stream = ImageStream(makers, close=partial(close_all, tapes))
        try:
            with self.exchange.waiting():
                await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _events(self, tape: Tape) -> bytes:
        """Return the frames of one call's images; its usage is told with the last."""
        created, source = self.exchange.created, tape.pieces()
        await self._count(source)
        [*others, last], told = await self._finished(source)
        without_usage = {name: value for name, value in told.items() if name != "usage"}
        frames = [render_event(created, picture, without_usage) for picture in others]
        return b"".join([*frames, render_event(created, last, told)])

    async def _count(self, source: AsyncIterator[Piece]) -> None:
        """Count the images that came, whatever becomes of them."""
        came = await anext(source)
        self.exchange.usage.images += came.content

    async def _finished(self, source: AsyncIterator[Piece]) -> tuple[list[Picture], Json]:
        """Return one call's pictures, and what is told of them."""
        [(packed, told)] = [piece.content async for piece in source]
        pictures = [await self._delivered(Picture.unpack(picture)) for picture in packed]
        return pictures, msgspec.json.decode(told)

    async def _delivered(self, picture: Picture) -> Picture:
        """Return a picture as the client gets it. Raises GatewayError."""
        self.exchange.usage.pixels += picture.pixels
        if not _by_address(self.exchange):
            return picture
        return replace(picture, text=b"", url=await self._keep(picture))

    async def _keep(self, picture: Picture) -> str:
        """Return the address under which the client can fetch `picture`. Raises GatewayError."""
        assert self.files is not None  # noqa: S101 (refused before anything was sent)
        try:
            name = await asyncio.to_thread(_write, self.files, picture)
        except OSError as exc:
            raise GatewayError(
                "The image was made but cannot be kept: ask for 'b64_json'.",
                code="storage_unavailable",
            ) from exc
        return f"{self.exchange.base_url}{PATH}/{name}"


def _recipes(errand: Errand) -> list[Recipe]:
    """Return what the pictures of each call depend on.

    Without a seed some dialects draw one: then these are the calls of the seed 0, and marked.
    """
    request = errand.request
    unneeded = WITHOUT_EFFECT | ({"n"} if request.body.get("n") == 1 else set())
    body = {name: value for name, value in request.body.items() if name not in unneeded}
    form: Json = {name: body[name] for name in _OBEYED_HERE if name in body}
    is_seeded = "seed" in body
    calls = errand.translator.plan(replace(request, body={"seed": 0} | body)).calls
    return [
        Recipe(calls=[call], form=form if is_seeded else form | {"unseeded": True, "index": at})
        for at, call in enumerate(calls)
    ]


def _by_address(exchange: Exchange) -> bool:
    return exchange.body.get("response_format") == "url"


def _unfulfilled(body: Json) -> tuple[str, ...]:
    """Return what cannot be had whatever the upstream: images come when they are finished."""
    wished = {
        "partial_images": body.get("stream") and body.get("partial_images"),
        "output_compression": body.get("output_format") == "png" and "output_compression" in body,
    }
    return tuple(name for name, is_wished in wished.items() if is_wished)


def _write(files: ImageFiles, picture: Picture) -> str:
    return files.write(picture.data, picture.form)
