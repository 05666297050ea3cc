"""Replicate's predictions, waited for: `POST {base}/models/{id}/predictions`, `Prefer: wait`.

Source: what `huggingface_hub` 2.4 sends and reads. The answer is 201 with a prediction object; its
`output` is the address of a file or a list of such, null if the prediction was not finished within
the minute that Replicate waits. A model that is named with a version, `owner/name:version`, is
asked for at `{base}/predictions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Call, Json, Link, Media, Plan, Request
from adapters.errors import Interrupted, TimedOut
from adapters.image_answers import parse_media
from adapters.image_parameters import left_out, seeds_of, size_of
from adapters.leaving_out import RECORDS, names_left_out
from adapters.sound import DEFAULTS

_TAKES = ("negative_prompt", "guidance_scale", "num_inference_steps")
_SPEECH_HONOURED = frozenset("model input response_format stream_format".split())
_HOSTS = ("replicate.delivery",)
_HEADERS = {"prefer": "wait"}
_UNFINISHED = {
    "starting": "The model is still starting at the upstream, which does not wait any longer.",
}


class ReplicateImage:
    """A prediction for each image, each with its own seed."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return a call per image."""
        calls = tuple(
            _call(request, _image_input(request.body, seed), index=index)
            for index, seed in enumerate(seeds_of(request.body))
        )
        return Plan(calls, left_out(request.body, {*_TAKES, "seed"}))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `data` of one image, which is still to be fetched. Raises UpstreamError."""
        return {"data": [{"media": _output(body)}]}


class ReplicateSpeech:
    """One prediction for the whole text. `parameter_names`: what the model calls OpenAI's."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call; what the model has no parameter for is left out."""
        body, names = request.body, request.parameter_names
        given = {native: body[name] for name, native in names.items() if name in body}
        honoured = _SPEECH_HONOURED | RECORDS | names.keys()
        ignored = names_left_out(body, honoured=honoured, defaults=DEFAULTS)
        return Plan((_call(request, {"text": body["input"]} | given),), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `{"media": Link}`: the sound is still to be fetched. Raises UpstreamError."""
        return {"media": _output(body)}


def _call(request: Request, given: Json, *, index: int = 0) -> Call:
    model, _, version = request.model.partition(":")
    path = "/predictions" if version else f"/models/{model}/predictions"
    payload: Json = {"input": given} | ({"version": version} if version else {})
    return Call(path=path, headers=_HEADERS, index=index, body=msgspec.json.encode(payload))


def _image_input(body: Json, seed: int | None) -> Json:
    given = {"prompt": body["prompt"]} | {name: body[name] for name in _TAKES if name in body}
    if size := size_of(body):
        given["width"], given["height"] = size
    return given if seed is None else given | {"seed": seed}


def _output(body: bytes) -> Media | Link:
    """Return what a prediction has made. Raises TimedOut while it has made nothing."""
    prediction = refusals.parse_object(body)
    output: Any = prediction.get("output")
    if output is None:
        raise TimedOut(
            _UNFINISHED.get(
                str(prediction.get("status")),
                "The upstream had not finished when the time was over that it waits.",
            )
        )
    first = output[0] if isinstance(output, list) and output else output
    if not isinstance(first, str):
        raise Interrupted("The upstream's prediction holds no file.")
    return parse_media(first, hosts=_HOSTS)
