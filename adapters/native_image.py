"""Native text-to-image, `POST {base}/models/{id}`: one image per call.

Source: the parameters of `huggingface_hub`'s `text_to_image`; the answers of hf-inference (bytes,
often JPEG whatever `Accept` says) and of the Inference Endpoints' toolkit (a base64 string).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.base import Call, Json, Plan, Request
from adapters.image_answers import parse_answer
from adapters.image_parameters import left_out, seeds_of, size_of
from adapters.native import model_path

_PARAMETERS = ("negative_prompt", "guidance_scale", "num_inference_steps", "scheduler")


class NativeImage:
    """A call for each image, each with its own seed."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return a call per image; `x-use-cache: 0` where the pictures are to be new ones."""
        body = request.body
        headers = {"accept": "image/png"}
        if "seed" not in body:
            headers["x-use-cache"] = "0"
        path = model_path(request.model)
        calls = tuple(
            Call(path=path, headers=headers, index=index, body=_payload(body, seed))
            for index, seed in enumerate(seeds_of(body))
        )
        return Plan(calls, left_out(body, {*_PARAMETERS, "seed"}))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `data` of one image. Raises UpstreamError, Interrupted where there is none."""
        return parse_answer(body, headers)


def _payload(body: Json, seed: int | None) -> bytes:
    parameters = {name: body[name] for name in _PARAMETERS if name in body}
    if size := size_of(body):
        parameters["width"], parameters["height"] = size
    if seed is not None:
        parameters["seed"] = seed
    return msgspec.json.encode({"inputs": body["prompt"], "parameters": parameters})
