"""Images: calls sent, pictures brought into the client's format, one answer or a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from adapters.base import Call, Json, Media, Request
from adapters.errors import UpstreamError
from gateway import sending
from gateway.amounts import Usage
from gateway.errors import BadRequest, GatewayError, from_upstream
from gateway.exchange import Body, Exchange, Route
from gateway.image_files import PATH, ImageFiles
from gateway.images import sniff
from gateway.pictures import Picture, develop, render_answer, render_event
from gateway.threads import Threads

_DEVELOPED_AT_ONCE = 2  # each holds a decoded image, 4 bytes per pixel


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
        request = Request(task=exchange.task, model=target.model, body=exchange.body)
        plan = target.upstream.dialect[exchange.task].plan(request)
        exchange.ignored = plan.ignored + _unfulfilled(exchange.body)
        return ImageJob(
            exchange=exchange,
            route=route,
            request=request,
            calls=plan.calls,
            files=self._files,
            developing=self._developing,
            estimate=Usage(images=exchange.body.get("n", 1)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageJob:
    """The calls of one exchange, and where its images are finished."""

    exchange: Exchange
    route: Route
    request: Request
    calls: tuple[Call, ...]
    files: ImageFiles | None
    developing: Threads
    estimate: Usage

    async def send(self) -> Body | ImageStream:
        """Return the answer, a stream once its first image is there.

        Raises GatewayError, UpstreamError.
        """
        return await (self._stream() if self.exchange.is_stream else self._whole())

    async def _whole(self) -> Body:
        with self.exchange.waiting():
            answers = await self._fetch(self.calls)
        pictures = [picture for told in answers for picture in await self._pictures(told)]
        told = answers[0] if len(answers) == 1 else {}
        return Body(render_answer(self.exchange.created, pictures, told))

    async def _stream(self) -> ImageStream:
        """Return the events, once the first image is there. Raises what its making raised."""
        stream = ImageStream([asyncio.create_task(self._events(call)) for call in self.calls])
        try:
            with self.exchange.waiting():
                await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _events(self, call: Call) -> bytes:
        """Return the frames of one call's images; its usage is told with the last."""
        created = self.exchange.created
        [told] = await self._fetch([call])
        *others, last = await self._pictures(told)
        without_usage = {name: value for name, value in told.items() if name != "usage"}
        frames = [render_event(created, picture, without_usage) for picture in others]
        return b"".join([*frames, render_event(created, last, told)])

    async def _fetch(self, calls: Sequence[Call]) -> list[Json]:
        return await sending.fetch(
            self.route.target,
            self.request,
            calls,
            wait=self.exchange.wait_for_model,
            note=self._note,
        )

    def _note(self, call: Call, answer: Json) -> None:
        """Count the images of an answer, whatever becomes of them. They are not decoded yet."""
        found = (sniff(image["media"].data) for image in answer["data"])
        self.exchange.usage.images += sum(form is not None for form in found)

    async def _pictures(self, told: Json) -> list[Picture]:
        """Return one call's images, finished. Raises GatewayError, UpstreamError."""
        pictures = []
        for image in told.pop("data"):
            media: Media = image.pop("media")
            picture = await self._picture(media.data, told=told, extra=image)
            self.exchange.usage.pixels += picture.pixels
            pictures.append(picture)
        return pictures

    async def _picture(self, data: bytes, *, told: Json, extra: Json) -> Picture:
        body = self.exchange.body
        form, compression = body.get("output_format"), body.get("output_compression")
        if form and told.get("output_format") == form:
            compression = None  # the upstream knows the two parameters: it has obeyed both
        picture = await self.developing.run(
            develop, data, form, compression=compression, extra=extra
        )
        if not _by_address(self.exchange):
            return picture
        return replace(picture, data=b"", url=await self._keep(picture))

    async def _keep(self, picture: Picture) -> str:
        """Return the address under which the client can fetch `picture`. Raises GatewayError."""
        assert self.files is not None  # noqa: S101 (refused before anything was sent)
        try:
            name = await asyncio.to_thread(self.files.write, picture.data, picture.form)
        except OSError as exc:
            raise GatewayError(
                "The image was made but cannot be kept: ask for 'b64_json'.",
                code="storage_unavailable",
            ) from exc
        return f"{self.exchange.base_url}{PATH}/{name}"


class ImageStream:
    """The events of images as they are ready. Iterating never raises: a failure is an event.

    Each of `makers` returns the frames of its images. They end when the stream is closed.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, makers: Sequence[asyncio.Task[bytes]]) -> None:
        self._pending = set(makers)
        self._ready: list[bytes] = []
        self._failure: GatewayError | UpstreamError | None = None
        self.is_over = False
        self.error: GatewayError | None = None

    async def open(self) -> None:
        """Wait for the first images. Raises GatewayError, UpstreamError: no event was sent yet."""
        await self._wait()
        if self._failure and not self._ready:
            raise self._failure

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until all images are there, or one has failed."""
        while not self.is_over:
            if not self._ready:
                await self._wait()
            frames, self._ready = self._ready, []
            if self._failure:
                self.error = _told_to_client(self._failure)
                frames.append(self.error.event())
                await self.aclose()
            self.is_over = not self._pending
            yield b"".join(frames)

    async def aclose(self) -> None:
        """End what is still being made."""
        for maker in self._pending:
            maker.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        self._pending = set()

    async def _wait(self) -> None:
        done, self._pending = await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
        for maker in done:
            try:
                self._ready.append(maker.result())
            except (GatewayError, UpstreamError) as exc:
                self._failure = exc


def _by_address(exchange: Exchange) -> bool:
    return exchange.body.get("response_format") == "url"


def _unfulfilled(body: Json) -> tuple[str, ...]:
    """Return what cannot be had whatever the upstream: images come when they are finished."""
    wished = {
        "partial_images": body.get("stream") and body.get("partial_images"),
        "output_compression": body.get("output_format") == "png" and "output_compression" in body,
    }
    return tuple(name for name, is_wished in wished.items() if is_wished)


def _told_to_client(error: GatewayError | UpstreamError) -> GatewayError:
    return error if isinstance(error, GatewayError) else from_upstream(error)
