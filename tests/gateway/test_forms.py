"""Uploads as SDKs send them, cut at every place, and what is over a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import httpx
import pytest
from openai import AsyncOpenAI

from gateway import forms
from gateway.errors import BadRequest
from gateway.forms import Form, read_form
from gateway.wire import ClientGone

pytestmark = pytest.mark.anyio

TYPE = "multipart/form-data; boundary=XX"
FILE = (
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--X\0\r\n"
)
MODEL = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
END = b"--XX--\r\n"


def arriving(parts: Iterable[bytes], *, ends: bool = True) -> Callable[[], Awaitable[dict]]:
    queue = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    last = {"type": "http.request" if ends else "http.disconnect", "body": b"", "more_body": False}

    async def receive() -> dict:
        return queue.pop(0) if queue else last

    return receive


async def read(*parts: bytes, content_type: str = TYPE, limit: int = 10**6, **headers: str) -> Form:
    scope = {"type": "http", "headers": [(b"content-type", content_type.encode())]}
    scope["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]
    return await read_form(scope, arriving(parts), limit_bytes=limit)


async def refused(*parts: bytes, **options) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await read(*parts, **options)
    return caught.value


async def sent_by_sdk(**options) -> Form:
    """Return the form of a transcription that OpenAI's SDK sends."""
    caught: list[httpx.Request] = []

    async def keep(request: httpx.Request) -> httpx.Response:
        caught.append(request)
        await request.aread()
        return httpx.Response(200, json={"text": ""})

    async with httpx.AsyncClient(transport=httpx.MockTransport(keep)) as http:
        client = AsyncOpenAI(api_key="k", base_url="http://gateway.example/v1", http_client=http)
        await client.audio.transcriptions.create(model="whisper-1", **options)
    request = caught[0]
    content = request.content
    parts = [content[at : at + 50] for at in range(0, len(content), 50)]
    return await read(*parts, content_type=request.headers["content-type"])


async def test_what_the_sdk_sends_is_read():
    form = await sent_by_sdk(
        file=b"RIFF" + bytes(300),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        temperature=0.5,
    )
    assert form.text("model") == "whisper-1"
    assert form.text("response_format") == "verbose_json"
    assert form.text("temperature") == "0.5"
    assert form.fields["timestamp_granularities[]"] == ["word", "segment"]
    assert form.texts("timestamp_granularities") == ["word", "segment"]
    assert form.file().data == b"RIFF" + bytes(300)
    assert form.file().name == "upload"


async def test_a_file_keeps_its_name_and_needs_no_type():
    form = await sent_by_sdk(file=("spräch.flac", b"fLaC"))
    assert (form.file().name, form.file().data) == ("spräch.flac", b"fLaC")
    bare = FILE.replace(b"Content-Type: audio/wav\r\n", b"")
    assert (await read(bare, END)).file().name == "a.wav"


async def test_a_body_may_be_cut_anywhere():
    body = FILE + MODEL + END
    for cut in range(len(body) + 1):
        form = await read(body[:cut], body[cut:])
        assert form.file().data == b"RIFF\r\n--X\0"
        assert form.fields == {"model": ["whisper-1"]}
    assert (await read(*(bytes([byte]) for byte in body))).file().data == b"RIFF\r\n--X\0"


async def test_an_empty_file_and_an_empty_field_are_there():
    form = await read(FILE.replace(b"RIFF\r\n--X\0", b""), MODEL.replace(b"whisper-1", b""), END)
    assert form.file().data == b""
    assert form.text("model") == ""
    assert form.text("prompt") is None


async def test_repeated_files_are_kept_in_order_and_one_is_wanted():
    form = await read(FILE, FILE.replace(b"a.wav", b"b.wav"), END)
    assert [file.name for file in form.files["file"]] == ["a.wav", "b.wav"]
    with pytest.raises(BadRequest, match="one file"):
        form.file()


async def test_a_missing_file_is_named():
    with pytest.raises(BadRequest) as caught:
        (await read(MODEL, END)).file()
    assert (caught.value.param, caught.value.code) == ("file", "missing_required_parameter")


async def test_a_file_sent_as_text_is_named():
    with pytest.raises(BadRequest) as caught:
        (await read(MODEL.replace(b'"model"', b'"file"'), END)).file()
    assert (caught.value.param, caught.value.code) == ("file", "invalid_type")


async def test_a_field_that_is_no_text_is_named():
    error = await refused(MODEL.replace(b"whisper-1", b"\xff\xfe"), END)
    assert (error.status, error.param) == (400, "model")


@pytest.mark.parametrize("content_type", ["application/json", "", "multipart/mixed; boundary=XX"])
async def test_other_content_types_are_refused(content_type):
    error = await refused(MODEL, END, content_type=content_type)
    assert (error.status, error.code) == (415, "unsupported_content_type")


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "a" * 71])
async def test_a_boundary_is_needed(boundary):
    error = await refused(MODEL, END, content_type="multipart/form-data" + boundary)
    assert (error.status, error.code) == (400, "invalid_multipart")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"nothing of the kind", MODEL, MODEL[:20], FILE + b"--XX", FILE + b"--XX-"),
        b"--XX\r\nno colon\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nContent-Type: text/plain\r\n\r\nx\r\n--XX--\r\n",
        b'--XX\nContent-Disposition: form-data; name="model"\n\nx\n--XX--\n',
        b'--XX\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--XX--\r\n',
    ],
)
async def test_what_is_no_whole_form_is_refused(body):
    error = await refused(body)
    assert (error.status, error.code) == (400, "invalid_multipart")


async def test_a_long_body_is_refused_by_its_length_unread():
    async def receive() -> dict:
        pytest.fail("the body was read")

    headers = [(b"content-type", TYPE.encode()), (b"content-length", b"101")]
    with pytest.raises(BadRequest) as caught:
        await read_form({"headers": headers}, receive, limit_bytes=100)
    assert caught.value.status == 413


async def test_a_body_is_cut_off_at_the_limit():
    async def endless() -> dict:
        received.append(1)
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    received: list[int] = []
    scope = {"headers": [(b"content-type", TYPE.encode())]}
    with pytest.raises(BadRequest) as caught:
        await read_form(scope, endless, limit_bytes=10_000)
    assert caught.value.status == 413
    assert len(received) == 11


@pytest.mark.parametrize(
    "body",
    [
        MODEL * 129 + END,
        MODEL.replace(b'"model"', b'"' + b"m" * 5000 + b'"') + END,
        b"--XX\r\n" + b"X: y\r\n" * 9 + MODEL[6:] + END,
    ],
    ids=["parts", "header", "headers"],
)
async def test_too_many_parts_and_too_long_headers_are_refused(body):
    error = await refused(body)
    assert (error.status, error.code) == (413, "request_too_large")


async def test_text_fields_have_a_limit_that_files_have_not():
    long = b"a" * 1_000_001
    assert (await read(FILE.replace(b"RIFF", long), END, limit=2_000_000)).file()
    error = await refused(MODEL.replace(b"whisper-1", long), END, limit=2_000_000)
    assert (error.status, error.param) == (413, "model")


async def test_a_client_that_leaves_is_told_apart():
    scope = {"headers": [(b"content-type", TYPE.encode())]}
    with pytest.raises(ClientGone):
        await read_form(scope, arriving([FILE], ends=False), limit_bytes=10**6)


async def test_a_body_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(forms, "_BODY_SECONDS", 0.01)
    scope = {"headers": [(b"content-type", TYPE.encode())]}
    with pytest.raises(BadRequest) as caught:
        await read_form(scope, asyncio.Event().wait, limit_bytes=10**6)
    assert caught.value.status == 408
