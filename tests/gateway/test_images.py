"""Images: told by their bytes, measured, transcoded and shrunk, and no bomb among them."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gateway import images
from gateway.images import BadImage, parse_data_url, render_data_url, sniff

FORMS = ["png", "jpeg", "webp"]


def picture(form: str, *, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options) -> bytes:
    target = io.BytesIO()
    red = {"RGB": (200, 30, 30), "RGBA": (200, 30, 30, 0), "L": 120, "P": 3, "CMYK": (0, 9, 9, 0)}
    Image.new(mode, size, red[mode]).save(target, form, **options)
    return target.getvalue()


def noise(size: tuple[int, int]) -> bytes:
    target = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(target, "png")
    return target.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims its size and holds next to nothing."""

    def block(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", shape) + block(b"IDAT", content) + block(b"IEND", b"")
    )


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("form", list(images.CONTENT_TYPES))
def test_formats_are_told_by_their_first_bytes(form):
    assert sniff(picture(form)) == form


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"<svg>", b"BMW is a car"])
def test_other_bytes_are_no_image(data):
    assert sniff(data) is None


@pytest.mark.parametrize("form", list(images.CONTENT_TYPES))
def test_width_and_height_are_read(form):
    assert images.measure(picture(form, size=(40, 30))) == (40, 30)


def test_measuring_reads_the_header_alone():
    assert images.measure(picture("png", size=(640, 480))[:64]) == (640, 480)


@pytest.mark.parametrize("wanted", FORMS)
@pytest.mark.parametrize("given", list(images.CONTENT_TYPES))
def test_pictures_are_transcoded(given, wanted):
    after = images.transcode(picture(given), wanted)
    assert sniff(after) == wanted
    image = opened(after).convert("RGB")
    assert image.size == (40, 30)
    assert all(abs(a - b) < 8 for a, b in zip(image.getpixel((9, 9)), (200, 30, 30), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_what_has_the_wanted_format_is_kept_byte_by_byte(form):
    data = picture(form)
    assert images.transcode(data, form) is data


def test_a_png_is_kept_whatever_compression_is_asked():
    data = picture("png")
    assert images.transcode(data, "png", compression=10) is data


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_compression_is_the_quality(form):
    source = noise((200, 200))
    small, large = (images.transcode(source, form, compression=level) for level in (5, 95))
    assert len(small) < len(large) / 2
    assert len(images.transcode(large, form, compression=5)) < len(large) / 2


def test_transparency_becomes_white_in_jpeg_and_stays_elsewhere():
    clear = picture("png", mode="RGBA")
    assert opened(images.transcode(clear, "jpeg")).getpixel((5, 5)) == (255, 255, 255)
    assert opened(images.transcode(clear, "webp")).getpixel((5, 5))[3] == 0


@pytest.mark.parametrize(("given", "mode"), [("png", "L"), ("png", "P"), ("jpeg", "CMYK")])
@pytest.mark.parametrize("wanted", FORMS)
def test_other_pixel_modes_are_converted(given, mode, wanted):
    form = "png" if given == wanted == "jpeg" else wanted
    assert sniff(images.transcode(picture(given, mode=mode), form, compression=50)) == form


def test_a_turned_photograph_is_upright_afterwards():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    turned = picture("jpeg", size=(40, 30), exif=exif)
    assert images.measure(images.transcode(turned, "png")) == (30, 40)


@pytest.mark.parametrize(
    "size", [(8_000, 8_000), (10_000, 10_000), (65_000, 65_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_decompression_bomb_is_refused_unopened(size):
    bomb = png_header(*size)
    for use in (images.measure, lambda data: images.transcode(data, "jpeg")):
        with pytest.raises(BadImage):
            use(bomb)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about TIFF's tags
@pytest.mark.parametrize("form", list(images.CONTENT_TYPES))
@pytest.mark.parametrize("keep", [8, 20, 50])
def test_broken_images_are_refused(form, keep):
    data = picture(form)
    with pytest.raises(BadImage):
        images.transcode(data[:keep], "jpeg" if form != "jpeg" else "png")


@given(at=st.integers(8, 100), byte=st.integers(0, 255), form=st.sampled_from(FORMS))
def test_a_flipped_byte_is_a_picture_or_a_refusal(at, byte, form):
    data = bytearray(picture(form))
    data[min(at, len(data) - 1)] = byte
    try:
        after = images.transcode(bytes(data), "png" if form != "png" else "jpeg")
    except BadImage:
        return
    assert sniff(after) in FORMS


def test_a_jpeg_that_takes_long_is_refused_undecoded():
    data = picture("jpeg", progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:last] + data[last:-2] * 501 + data[-2:]
    with pytest.raises(BadImage, match="more than 500 scans"):
        images.shrink_to(many, len(data))
    with pytest.raises(BadImage):
        images.measure(many)


def test_an_image_is_shrunk_below_the_limit():
    source = noise((900, 600))
    shrunk = images.shrink_to(source, 60_000)
    assert 20_000 < len(shrunk) <= 60_000
    width, height = images.measure(shrunk)
    assert width / height == pytest.approx(1.5, abs=0.02)


def test_an_image_that_fits_is_kept():
    source = picture("gif")
    assert images.shrink_to(source, len(source)) is source


def test_an_image_that_cannot_fit_is_refused():
    with pytest.raises(BadImage, match="small enough"):
        images.shrink_to(noise((300, 300)), 100)


@pytest.mark.parametrize("form", FORMS)
def test_data_urls_have_one_semicolon_and_come_back(form):
    url = render_data_url(picture(form))
    assert url.startswith(f"data:image/{form};base64,")
    assert url.count(";") == 1
    assert parse_data_url(url) == picture(form)


@pytest.mark.parametrize("head", ["image/jpeg", "image/png;charset=utf-8", "", "text/html"])
def test_a_data_urls_claim_is_not_trusted(head):
    url = f"data:{head};base64,{base64.b64encode(picture('png')).decode()}"
    assert render_data_url(parse_data_url(url)).startswith("data:image/png;base64,iVBOR")


def test_a_percent_encoded_data_url_is_read():
    encoded = base64.b64encode(picture("jpeg")).decode().replace("+", "%2B").replace("/", "%2F")
    assert parse_data_url(f"data:image/jpeg;base64,{encoded}") == picture("jpeg")


@pytest.mark.parametrize(
    "url",
    [
        *("", "data:", "data:image/png,abc", "https://pictures.example/a.png", "data:;base64,"),
        *("data:image/png;base64,????", "data:image/png;base64,iVBORw0", "data:;base64,é"),
        "data:text/plain;base64,aGVsbG8=",
    ],
)
def test_other_urls_are_no_images(url):
    with pytest.raises(BadImage):
        parse_data_url(url)
