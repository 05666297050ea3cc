"""Images by address. The address is the permission: `<img>` and browsers have no key to show."""

from __future__ import annotations

import asyncio

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from gateway.errors import BadRequest
from gateway.image_files import LIFETIME_SECONDS, PATH, ImageFiles
from gateway.images import CONTENT_TYPES


def files_route(files: ImageFiles | None) -> HTTPRouteHandler:
    """Return `GET /files/{name}`. HEAD is answered as GET, by the edge."""

    @get(PATH + "/{name:str}")
    async def show_file(name: FromPath[str]) -> Response[bytes]:
        """Return an image that was asked for with `response_format: url`, for an hour."""
        data = await asyncio.to_thread(files.read, name) if files else None
        if data is None:
            raise BadRequest(
                f"There is no such file. They are kept for {LIFETIME_SECONDS / 60:.0f} minutes.",
                status=404,
                code="file_not_found",
            )
        headers = {
            "content-disposition": "inline",
            "cache-control": f"private, max-age={LIFETIME_SECONDS:.0f}, immutable",
            "x-content-type-options": "nosniff",
        }
        media_type = CONTENT_TYPES[name.rpartition(".")[2]]
        return Response(data, media_type=media_type, headers=headers)

    return show_file
