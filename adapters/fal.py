"""fal's synchronous API, `POST {base}/{model}`, its images inlined (`sync_mode`).

Without `sync_mode` fal answers with addresses in its own store, which are not fetched.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.base import Call, Json, Plan, Request
from adapters.image_answers import parse_answer
from adapters.image_parameters import left_out, seeds_of, size_of

_TAKES = ("negative_prompt", "guidance_scale", "num_inference_steps")


class FalImage:
    """A call for each image, each with its own seed."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return a call per image."""
        calls = tuple(
            Call(path=f"/{request.model}", index=index, body=_payload(request.body, seed))
            for index, seed in enumerate(seeds_of(request.body))
        )
        return Plan(calls, left_out(request.body, {*_TAKES, "seed"}))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return the upstream's object, its image as `data`. Raises UpstreamError."""
        return parse_answer(body, headers)


def _payload(body: Json, seed: int | None) -> bytes:
    payload = {"prompt": body["prompt"], "num_images": 1, "sync_mode": True}
    payload |= {name: body[name] for name in _TAKES if name in body}
    if size := size_of(body):
        width, height = size
        payload["image_size"] = {"width": width, "height": height}
    if seed is not None:
        payload["seed"] = seed
    return msgspec.json.encode(payload)
