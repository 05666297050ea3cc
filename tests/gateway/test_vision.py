"""Images of chats: fetched where that is allowed, and shared out over an upstream's room."""

import asyncio
import base64
import io
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.base import Request, Task
from adapters.dialects import DIALECTS
from gateway.errors import BadRequest
from gateway.fetching import FetchFailed
from gateway.vision import Vision, share

pytestmark = pytest.mark.anyio

MARK = "<image>"


def _picture(form="png", size=(8, 6)):
    target = io.BytesIO()
    Image.effect_noise(size, 100).save(target, form)
    return target.getvalue()


def _data_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _request(*urls, mark=MARK):
    content = [{"type": "text", "text": "a"}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": content}, {"role": "user", "content": "b"}]
    prompts = (mark * len(urls),) if mark else ()
    return Request(
        task=Task.CHAT, model="m", body={"messages": messages}, prompts=prompts, image_mark=mark
    )


def _target(max_body_bytes=2_000_000):
    return SimpleNamespace(upstream=SimpleNamespace(max_body_bytes=max_body_bytes))


def _exchange():
    return SimpleNamespace(scaled_images=0)


def _fetching(**images):
    """Return a `fetch` that knows `https://host/{name}`."""

    async def fetch(url):
        found = images.get(url.rpartition("/")[2])
        if found is None:
            raise FetchFailed("the image could not be fetched")
        return found

    return Vision(fetch)


async def test_a_fetched_image_stands_in_the_order_of_its_part():
    red, blue = _picture(), _picture("jpeg")
    vision = _fetching(red=red, blue=blue)
    request = _request("https://host/blue", _data_url(red), "http://host/red")
    images = (await vision(request, _exchange(), _target())).images
    kinds = [image.partition(";")[0] for image in images]
    assert kinds == ["data:image/jpeg", "data:image/png", "data:image/png"]
    assert images[1] == images[2] == _data_url(red)


async def test_a_server_that_speaks_openai_gets_fetched_images_as_data_urls():
    red = _picture()
    request = _request("https://host/red", mark="")
    resolved = await _fetching(red=red)(request, _exchange(), _target(None))
    first, second = resolved.body["messages"]
    assert first["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": _data_url(red)}},
    ]
    assert second == {"role": "user", "content": "b"}
    assert request.body["messages"][0]["content"][1]["image_url"]["url"] == "https://host/red"


async def test_an_image_that_cannot_be_fetched_is_refused_by_its_place():
    request = _request("https://host/red", "https://host/none")
    with pytest.raises(BadRequest, match="could not be fetched") as refused:
        await _fetching(red=_picture())(request, _exchange(), _target())
    assert refused.value.param == "messages[0].content[2].image_url.url"


async def test_images_that_are_too_many_bytes_together_are_refused():
    padded = _picture() + bytes(20_000_000)
    request = _request(*["https://host/large"] * 4)
    with pytest.raises(BadRequest, match="over 64000000 bytes together") as refused:
        await _fetching(large=padded)(request, _exchange(), _target(None))
    assert refused.value.param == "messages[0].content[3].image_url.url"


async def test_images_that_come_too_slowly_are_refused(monkeypatch):
    monkeypatch.setattr("gateway.vision._FETCH_SECONDS", 0.01)

    async def never(url):
        await asyncio.Event().wait()

    with pytest.raises(BadRequest, match="did not arrive in time"):
        await Vision(never)(_request("https://host/red"), _exchange(), _target())


async def test_a_large_image_is_copied_only_to_be_checked_and_to_be_sent():
    url = _data_url(_picture(size=(3000, 3000)))
    assert len(url) > 10_000_000
    await Vision()(
        _request(small := _data_url(_picture())), _exchange(), _target()
    )  # imports Pillow
    request = _request(url, small)
    tracemalloc.start()
    try:
        checked = await Vision()(request, _exchange(), _target(None))
        _, to_check = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        (call,) = DIALECTS["tgi"][Task.CHAT].plan(checked).calls
        _, to_send = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert checked.images[0] is url
    assert url.encode() in call.body
    assert to_check < 3 * len(url)
    assert to_send < 4 * len(url)


async def test_an_upstream_without_a_limit_gets_images_as_they_are():
    large, exchange = _data_url(_picture(size=(300, 300))), _exchange()
    assert (await Vision()(_request(large), exchange, _target(None))).images == (large,)
    assert exchange.scaled_images == 0


@given(
    sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=20), room=st.integers(0, 2 * 10**7)
)
def test_what_images_are_cut_to_fits_and_wastes_no_room(sizes, room):
    cut = [min(size, share(sizes, room)) for size in sizes]
    assert sum(cut) <= room
    assert cut == sizes or sum(cut) > room - len(sizes)
