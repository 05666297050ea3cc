"""What upstreams link to is fetched, but only from where their dialect says that they keep it."""

from __future__ import annotations

import pytest

from adapters.base import Json, Link, Media
from adapters.errors import Interrupted
from gateway.fetching import FetchFailed, ImageFetcher
from gateway.upstreams.results import Results

pytestmark = pytest.mark.anyio

HOSTS = ("files.example",)


class Shelf(ImageFetcher):
    """Has one file, and keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if url.endswith("/gone"):
            raise FetchFailed("the image's server answered 404")
        return b"the file"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.mark.parametrize(
    "host", ["files.example", "a.b.files.example", "FILES.example", "files.example."]
)
async def test_a_link_is_replaced_by_what_is_there(shelf: Shelf, host: str) -> None:
    url = f"https://{host}/out.webp"
    found = await Results(shelf).fetched({"media": Link(url, HOSTS)})
    assert found == {"media": Media(b"the file")}
    assert shelf.asked == [url]


async def test_each_item_of_an_answer_is_fetched(shelf: Shelf) -> None:
    sent = {"media": Media(b"sent")}
    linked = {"media": Link("https://files.example/1", HOSTS), "revised_prompt": "a fox"}
    found = await Results(shelf).fetched({"data": [sent, linked], "usage": {}})
    assert found == {
        "data": [sent, {"media": Media(b"the file"), "revised_prompt": "a fox"}],
        "usage": {},
    }


@pytest.mark.parametrize(
    "answer",
    [{"choices": []}, {"media": Media(b"x")}, {"data": [{"embedding": [0.5]}]}, {"data": "x"}, {}],
)
async def test_what_links_to_nothing_is_left_as_it_is(shelf: Shelf, answer: Json) -> None:
    assert await Results(shelf).fetched(answer) == answer
    assert shelf.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example/out",
        "https://files.example.evil.example/out",
        "https://evilfiles.example/out",
        "https://evil.example/files.example",
        "https://files.example@evil.example/out",
        "https://evil.example\\@files.example/out",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/out",
        "file:///etc/passwd",
        "https://[/out",
        "",
    ],
)
async def test_no_other_place_is_asked(shelf: Shelf, url: str) -> None:
    with pytest.raises(Interrupted, match="where it is not fetched from"):
        await Results(shelf).fetched({"media": Link(url, HOSTS)})
    assert shelf.asked == []


async def test_what_cannot_be_fetched_is_the_upstreams_failure(shelf: Shelf) -> None:
    with pytest.raises(Interrupted, match="could not be fetched"):
        await Results(shelf).fetched({"media": Link("https://files.example/gone", HOSTS)})


async def test_a_place_that_leads_inside_is_not_asked() -> None:
    with pytest.raises(Interrupted, match="could not be fetched"):
        await Results().fetched({"media": Link("https://127.0.0.1/x", ("127.0.0.1",))})
