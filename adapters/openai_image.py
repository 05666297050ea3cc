"""`POST {base}/images/generations`: OpenAI's own form, and those of servers near to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from adapters.base import Call, Json, Plan, Request
from adapters.image_answers import parse_answer
from adapters.image_parameters import left_out, seeds_of, size_of

_PATH = "/images/generations"
_OURS = ("response_format", "stream", "partial_images")  # the gateway's own affair
# These always answer base64 and refuse to be asked for it.
_FIXED_FORMAT = ("gpt-image", "chatgpt-image")


class OpenAIImage:
    """All images in one call; fields that are unknown here go on as they came."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call. The images themselves are asked for, never their addresses."""
        body = {name: value for name, value in request.body.items() if name not in _OURS}
        body["model"] = request.model
        if not request.model.startswith(_FIXED_FORMAT):
            body["response_format"] = "b64_json"
        return Plan((Call(path=_PATH, body=msgspec.json.encode(body)),))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return the upstream's object, its images as `data`. Raises UpstreamError."""
        return parse_answer(body, headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class NearOpenAIImage:
    """A server whose fields differ, and that is asked for one image at a time.

    `takes` are the fields it knows beyond the prompt and the size, by OpenAI's or the native
    API's name; `renames` says how it calls them. `splits_size`: it wants `width` and `height`.
    """

    takes: frozenset[str]
    renames: Mapping[str, str] = field(default_factory=dict)
    response_format: str = "b64_json"
    splits_size: bool = False

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return a call per image, each with its own seed if the server takes seeds."""
        calls = tuple(
            Call(path=_PATH, index=index, body=self._payload(request, seed))
            for index, seed in enumerate(seeds_of(request.body))
        )
        return Plan(calls, left_out(request.body, self.takes))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return the upstream's object, its image as `data`. Raises UpstreamError."""
        return parse_answer(body, headers)

    def _payload(self, request: Request, seed: int | None) -> bytes:
        given = request.body if seed is None else request.body | {"seed": seed}
        payload: Json = {
            self.renames.get(name, name): value
            for name, value in given.items()
            if name in self.takes
        }
        payload |= {
            "model": request.model,
            "prompt": request.body["prompt"],
            "response_format": self.response_format,
        }
        if size := size_of(request.body):
            width, height = size
            named = {"width": width, "height": height}
            payload |= named if self.splits_size else {"size": f"{width}x{height}"}
        return msgspec.json.encode(payload)


# Source of both: what `huggingface_hub` sends to them.
TOGETHER = NearOpenAIImage(
    takes=frozenset({"negative_prompt", "guidance_scale", "num_inference_steps", "seed"}),
    renames={"num_inference_steps": "steps"},
    response_format="base64",
    splits_size=True,
)
NSCALE = NearOpenAIImage(takes=frozenset({"negative_prompt", "guidance_scale", "seed"}))
