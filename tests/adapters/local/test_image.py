"""Pictures: real PNGs of the size asked for, changed by the prompt, the seed and each parameter."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from adapters.local.image import ImageModel, Painting

MODEL = "/models/dragoman/emoji-flow"


def _paint(client: httpx.Client, inputs: str, **parameters: Any) -> httpx.Response:
    small = {"width": 64, "height": 64, "seed": 1, **parameters}
    answer = client.post(MODEL, json={"inputs": inputs, "parameters": small})
    assert answer.status_code == 200, answer.text
    return answer


def _colour(png: bytes) -> np.ndarray[Any, Any]:
    """Return the mean red, green and blue."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).mean((0, 1))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (256, 128), (72, 200), (1024, 1024)])
def test_a_picture_is_a_png_of_the_size_asked_for(
    pipelines: httpx.Client, width: int, height: int
) -> None:
    answer = _paint(pipelines, "a red apple", width=width, height=height, num_inference_steps=4)
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()

    assert answer.headers["content-type"] == "image/png"
    assert (picture.format, picture.size, picture.mode) == ("PNG", (width, height), "RGB")
    assert len(set(picture.get_flattened_data())) > 100


def test_without_parameters_a_picture_is_256_wide_and_high(pipelines: httpx.Client) -> None:
    answer = pipelines.post(MODEL, json={"inputs": "a cat", "parameters": None})

    assert Image.open(io.BytesIO(answer.content)).size == (256, 256)


def test_headers_tell_time_and_characters(pipelines: httpx.Client) -> None:
    headers = _paint(pipelines, "a cat").headers

    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "5"
    assert 0 < float(headers["x-compute-time"]) < 600


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    pipelines: httpx.Client,
) -> None:
    first, again, other = (_paint(pipelines, "a dog", seed=seed).content for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_without_a_seed_each_picture_is_another(pipelines: httpx.Client) -> None:
    one, two = (_paint(pipelines, "a dog", seed=None).content for _ in range(2))

    assert one != two


def test_the_prompt_decides_what_is_painted(pipelines: httpx.Client) -> None:
    red, blue = (_colour(_paint(pipelines, f"a {hue} heart").content) for hue in ("red", "blue"))

    assert red[0] - red[2] > blue[0] - blue[2] + 40


@pytest.mark.parametrize(
    "change",
    [
        {"negative_prompt": "a dog"},
        {"num_inference_steps": 3},
        {"guidance_scale": 9},
        {"seed": 2**64 - 1},
    ],
    ids=str,
)
def test_a_parameter_changes_the_picture(pipelines: httpx.Client, change: dict[str, Any]) -> None:
    plain, changed = (_paint(pipelines, "an animal", **given) for given in ({}, change))

    assert plain.content != changed.content


def test_the_scheduler_that_it_has_may_be_named(pipelines: httpx.Client) -> None:
    named = _paint(pipelines, "a cat", scheduler="FlowMatchEulerDiscreteScheduler")

    assert named.content == _paint(pipelines, "a cat").content


@pytest.mark.parametrize(
    ("parameters", "status", "message"),
    [
        ({"scheduler": "DDIM"}, 400, "`scheduler` must be 'FlowMatchEulerDiscreteScheduler'"),
        ({"strength": 1}, 400, "`strength` is not a parameter of this model"),
        ({"width": "64"}, 400, "`width` must be an integer"),
        ({"width": True}, 400, "`width` must be an integer"),
        ({"width": 63}, 422, "`width` must be >= 64 and <= 1024. Given: 63"),
        ({"height": 1032}, 422, "`height` must be >= 64 and <= 1024. Given: 1032"),
        ({"height": 100}, 422, "`height` must be a multiple of 8. Given: 100"),
        ({"num_inference_steps": 0}, 422, "`num_inference_steps` must be >= 1 and <= 100"),
        ({"num_inference_steps": 2.5}, 400, "`num_inference_steps` must be an integer"),
        ({"guidance_scale": 0.5}, 422, "`guidance_scale` must be >= 1 and <= 10. Given: 0.5"),
        ({"guidance_scale": "3"}, 400, "`guidance_scale` must be a number"),
        ({"negative_prompt": 3}, 400, "`negative_prompt` must be a string"),
        ({"seed": -1}, 422, "`seed` must be >= 0"),
        ({"seed": 2**64}, 422, "`seed` must be >= 0"),
    ],
    ids=str,
)
def test_a_parameter_that_cannot_be_met_is_named(
    pipelines: httpx.Client, parameters: dict[str, Any], status: int, message: str
) -> None:
    answer = pipelines.post(MODEL, json={"inputs": "a cat", "parameters": parameters})

    assert answer.status_code == status
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"inputs": 3}', 400),
        (b'{"inputs": "x", "parameters": []}', 400),
        (b'{"inputs": " "}', 422),
        (b'{"inputs": "' + b"x" * 4001 + b'"}', 422),
        (b'{"inputs": "' + b"x" * 100_000 + b'"}', 413),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_no_request_is_refused(
    pipelines: httpx.Client, body: bytes, status: int
) -> None:
    answer = pipelines.post(MODEL, content=body)

    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        f"{MODEL}/generate",
        f"{MODEL}/generate_stream",
        f"{MODEL}/tokenize",
        f"{MODEL}/pipeline/text-to-speech",
        "/pipeline/feature-extraction/dragoman/emoji-flow",
    ],
)
def test_another_task_is_refused(pipelines: httpx.Client, path: str) -> None:
    answer = pipelines.post(path, json={"inputs": "a cat"})

    assert answer.status_code == 400
    assert "is for text-to-image, not for" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", [f"{MODEL}/pipeline/text-to-image", "/pipeline/text-to-image/dragoman/emoji-flow"]
)
def test_the_pipeline_paths_answer_too(pipelines: httpx.Client, path: str) -> None:
    body = {"inputs": "a cat", "parameters": {"width": 64, "height": 64, "seed": 1}}

    assert pipelines.post(path, json=body).content == _paint(pipelines, "a cat").content


def test_info_status_and_health_tell_the_model(pipelines: httpx.Client) -> None:
    _paint(pipelines, "a cat")
    info = pipelines.get(f"{MODEL}/info").json()
    status = pipelines.get("/status/dragoman/emoji-flow").json()

    assert info["model_id"] == "dragoman/emoji-flow"
    assert info["model_pipeline_tag"] == "text-to-image"
    assert (info["min_side"], info["max_side"], info["side_step"]) == (64, 1024, 8)
    assert status == {
        "loaded": True,
        "state": "Loaded",
        "compute_type": "cpu",
        "framework": "numpy",
    }
    assert pipelines.get(f"{MODEL}/health").status_code == 200


def test_painting_stops_between_two_steps() -> None:
    class Enough(Exception):
        pass

    def checkpoint() -> None:
        passed.append(None)
        if len(passed) == 3:
            raise Enough

    passed: list[None] = []
    studio = ImageModel().load()
    with pytest.raises(Enough):
        studio.paint("a cat", Painting(width=64, height=64), checkpoint)

    assert len(passed) == 3
