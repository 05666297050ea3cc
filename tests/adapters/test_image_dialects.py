"""What each image dialect sends for OpenAI's parameters, and what it reads in the answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from adapters.base import Call, Json, Plan, Request, Task
from adapters.dialects import AUTH_SCHEMES, DIALECTS
from adapters.errors import Failed, Interrupted, ModelLoading, UpstreamError

PNG = b"\x89PNG\r\n\x1a\n and what follows"
BASE64 = base64.b64encode(PNG).decode()
EVERYTHING = {
    "prompt": "a red fox",
    "size": "512x256",
    "seed": 7,
    "negative_prompt": "blue",
    "guidance_scale": 4.5,
    "num_inference_steps": 20,
    "scheduler": "EulerDiscreteScheduler",
    "quality": "high",
    "style": "vivid",
    "background": "transparent",
    "moderation": "low",
    "user": "someone",
    "response_format": "url",
    "output_format": "webp",
    "output_compression": 50,
    "unheard_of": [1],
}


def request(model: str = "org/model", **body: Any) -> Request:
    return Request(task=Task.IMAGE, model=model, body={"prompt": "a red fox", **body})


def plan(dialect: str, model: str = "org/model", **body: Any) -> Plan:
    return DIALECTS[dialect][Task.IMAGE].plan(request(model, **body))


def sent(call: Call) -> Json:
    payload: Json = json.loads(call.body)
    return payload


def answer(dialect: str, body: bytes, headers: dict[str, str] | None = None) -> Json:
    translator = DIALECTS[dialect][Task.IMAGE]
    call = translator.plan(request()).calls[0]
    return translator.answer(request(), call, headers=headers or {}, body=body)


def images(dialect: str, body: bytes) -> list[bytes]:
    return [image["media"].data for image in answer(dialect, body)["data"]]


def test_hf_says_everything_that_the_native_api_knows_and_names_the_rest() -> None:
    planned = plan("hf", **EVERYTHING)
    [call] = planned.calls
    assert call.path == "/models/org/model"
    assert sent(call) == {
        "inputs": "a red fox",
        "parameters": {
            "negative_prompt": "blue",
            "guidance_scale": 4.5,
            "num_inference_steps": 20,
            "scheduler": "EulerDiscreteScheduler",
            "width": 512,
            "height": 256,
            "seed": 7,
        },
    }
    assert planned.ignored == ("quality", "style", "background", "moderation", "unheard_of")


def test_hf_asks_an_endpoint_without_a_model_at_its_root() -> None:
    assert plan("hf", model="").calls[0].path == "/"


@pytest.mark.parametrize("body", [{}, {"size": "auto"}])
def test_hf_leaves_the_size_to_the_model(body: Json) -> None:
    assert sent(plan("hf", **body).calls[0])["parameters"] == {}


def test_hf_asks_for_png_and_for_new_pictures_unless_they_are_seeded() -> None:
    assert plan("hf").calls[0].headers == {"accept": "image/png", "x-use-cache": "0"}
    assert plan("hf", seed=1).calls[0].headers == {"accept": "image/png"}


@pytest.mark.parametrize("name", ["quality", "background", "moderation"])
def test_a_wish_for_what_happens_anyway_is_not_named(name: str) -> None:
    assert plan("hf", **{name: "auto"}).ignored == ()


@pytest.mark.parametrize(
    ("dialect", "where"),
    [("hf", "parameters"), ("together", None), ("nscale", None), ("fal", None)],
)
def test_image_k_has_the_kth_seed_however_many_are_asked_for(
    dialect: str, where: str | None
) -> None:
    def seeds(n: int) -> list[int]:
        payloads = [sent(call) for call in plan(dialect, seed=41, n=n).calls]
        return [(payload[where] if where else payload)["seed"] for payload in payloads]

    assert seeds(1) == [41]
    assert seeds(4) == [41, 42, 43, 44]


@pytest.mark.parametrize(("seed", "expected"), [(-1, 2**64 - 1), (2**64 - 1, 2**64 - 1)])
def test_seeds_are_unsigned_64_bit_numbers(seed: int, expected: int) -> None:
    payloads = [sent(call)["parameters"]["seed"] for call in plan("hf", seed=seed, n=2).calls]
    assert payloads == [expected, (expected + 1) % 2**64]


def test_several_images_without_a_seed_get_different_random_ones() -> None:
    draws = [
        tuple(sent(call)["parameters"]["seed"] for call in plan("hf", n=10).calls) for _ in range(4)
    ]
    assert all(len(set(seeds)) == 10 for seeds in draws)
    assert all(0 <= seed < 2**31 for seeds in draws for seed in seeds)
    assert len(set(draws)) == 4


def test_one_image_without_a_seed_leaves_it_to_the_server() -> None:
    assert "seed" not in sent(plan("hf").calls[0])["parameters"]


def test_openai_gets_all_fields_as_they_came_but_is_asked_for_base64() -> None:
    planned = plan("openai", **EVERYTHING, n=3, stream=True, partial_images=2)
    [call] = planned.calls
    assert call.path == "/images/generations"
    assert sent(call) == {
        **EVERYTHING,
        "n": 3,
        "model": "org/model",
        "response_format": "b64_json",
    }
    assert planned.ignored == ()


def test_openais_own_models_are_not_asked_for_base64_which_they_refuse() -> None:
    assert "response_format" not in sent(plan("openai", model="gpt-image-2").calls[0])


def test_together_has_names_of_its_own() -> None:
    planned = plan("together", **EVERYTHING)
    [call] = planned.calls
    assert call.path == "/images/generations"
    assert sent(call) == {
        "model": "org/model",
        "prompt": "a red fox",
        "response_format": "base64",
        "width": 512,
        "height": 256,
        "steps": 20,
        "guidance_scale": 4.5,
        "negative_prompt": "blue",
        "seed": 7,
    }
    assert "scheduler" in planned.ignored


def test_nscale_takes_the_size_as_openai_does_and_no_steps() -> None:
    planned = plan("nscale", **EVERYTHING)
    assert sent(planned.calls[0]) == {
        "model": "org/model",
        "prompt": "a red fox",
        "response_format": "b64_json",
        "size": "512x256",
        "guidance_scale": 4.5,
        "negative_prompt": "blue",
        "seed": 7,
    }
    assert "num_inference_steps" in planned.ignored


def test_fal_is_asked_to_put_the_image_into_its_answer() -> None:
    [call] = plan("fal", model="fal-ai/flux/dev", **EVERYTHING).calls
    assert call.path == "/fal-ai/flux/dev"
    assert sent(call) == {
        "prompt": "a red fox",
        "num_images": 1,
        "sync_mode": True,
        "image_size": {"width": 512, "height": 256},
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "negative_prompt": "blue",
        "seed": 7,
    }
    assert AUTH_SCHEMES["fal"] == "Key"


FORMS = {
    "bytes": PNG,
    "base64": json.dumps(BASE64).encode(),
    "base64 in a list": json.dumps([BASE64]).encode(),
    "b64_json": json.dumps({"data": [{"b64_json": BASE64}]}).encode(),
    "b64_json beside a null url": json.dumps(
        {"data": [{"url": None, "b64_json": BASE64}]}
    ).encode(),
    "a data URL for url": json.dumps(
        {"data": [{"url": f"data:image/png;base64,{BASE64}"}]}
    ).encode(),
    "output": json.dumps({"output": [f"data:image/png;base64,{BASE64}"]}).encode(),
    "output alone": json.dumps({"output": f"DATA:image/png;base64,{BASE64}"}).encode(),
    "fal's": json.dumps({"images": [{"url": f"data:image/png;base64,{BASE64}"}]}).encode(),
    "fal's single one": json.dumps({"image": {"url": f"data:;base64,{BASE64}"}}).encode(),
    "after white space": b"\n " + json.dumps(BASE64).encode(),
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dialect", ["hf", "openai", "together", "nscale", "fal"])
def test_an_image_is_found_in_any_form(dialect: str, body: bytes) -> None:
    assert images(dialect, body) == [PNG]


def test_a_body_that_is_the_image_keeps_the_type_it_was_given() -> None:
    [image] = answer("hf", PNG, {"content-type": "image/jpeg"})["data"]
    assert image["media"].type == "image/jpeg"


def test_all_images_of_one_answer_are_found_with_what_is_told_of_them() -> None:
    data = [{"b64_json": BASE64, "revised_prompt": f"fox {at}"} for at in range(3)]
    told = answer("openai", json.dumps({"data": data, "quality": "high"}).encode())
    assert [image["revised_prompt"] for image in told["data"]] == ["fox 0", "fox 1", "fox 2"]
    assert {image["media"].data for image in told["data"]} == {PNG}
    assert told["quality"] == "high"


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "HTTPS://cdn/a.png"])
@pytest.mark.parametrize("dialect", ["hf", "openai", "fal"])
def test_an_address_in_an_answer_is_not_followed(dialect: str, url: str) -> None:
    with pytest.raises(Interrupted, match="must send the image itself"):
        answer(dialect, json.dumps({"output": [url]}).encode())


NO_IMAGES: dict[str, bytes] = {
    "nothing in data": b'{"data": []}',
    "an empty object": b"{}",
    "null for an image": b'{"data": [null]}',
    "a number": b'{"data": [{"b64_json": 5}]}',
    "broken base64": b'"abcde"',
    "base64 beyond ASCII": '"\u00e9\u00e9\u00e9\u00e9"'.encode(),
    "half of an object": b'{"data": [{"b64_json": "',
}


@pytest.mark.parametrize("body", NO_IMAGES.values(), ids=NO_IMAGES)
def test_an_answer_without_an_image_is_a_broken_one(body: bytes) -> None:
    with pytest.raises(Interrupted):
        answer("hf", body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": "CUDA out of memory"}', Failed),
        (b'{"error": "Model org/m is currently loading", "estimated_time": 20.0}', ModelLoading),
    ],
)
def test_an_error_under_status_200_is_that_error(body: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        answer("hf", body)
