"""Recipes of every kind, and the digests that they had when version 1 of the keys came about.

Another digest here means that no answer of before is found: then VERSION must be another, too.
"""

from __future__ import annotations

import json
from typing import Any

from adapters.base import Call
from gateway.cache.keys import digest
from gateway.tapes import Recipe

NAMES = {"scope": "key.Ab3dEf9h", "task": "chat", "model": "meta/llama", "target": "llama-3"}


def call(path: str, body: Any, **options: Any) -> Call:
    """Return a call with a body of JSON."""
    return Call(path=path, body=json.dumps(body).encode(), **options)


_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "day": {}}},
    },
}
_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
_CHAT = {
    "model": "llama-3",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Où est-ce ?"}, _PICTURE]},
    ],
    "temperature": 0.7,
    "seed": 3,
    "tools": [_WEATHER],
    "logit_bias": {"50256": -100, "1": 1},
    "stop": ["\n", "END"],
    "chat_template_kwargs": {"b": True, "a": None},
}
_GENERATE = {
    "inputs": "<|user|>Hello",
    "parameters": {
        "max_new_tokens": 20,
        "seed": 1,
        "grammar": {"type": "json", "value": {"type": "object", "properties": {"b": {}, "a": {}}}},
    },
    "options": {"wait_for_model": True, "use_cache": False},
}
_FORM = (
    b'--{b}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--{b}\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF\r\n--{b}--\r\n'
)


def multipart(boundary: str) -> Call:
    """Return a call with a form of two parts."""
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    body = _FORM.replace(b"{b}", boundary.encode())
    return Call(path="/audio/transcriptions", body=body, headers=kind)


RECIPES = {
    "nothing": Recipe(),
    "chat": Recipe(calls=[call("/chat/completions", _CHAT)], form={"n": 1}),
    "generate": Recipe(calls=[call("/generate", _GENERATE)]),
    "unseeded": Recipe(calls=[call("/generate", _GENERATE)], form={"unseeded": True, "index": 2}),
    "two calls": Recipe(calls=[call("/a", {"inputs": "x"}), call("/a", {"inputs": "y"})]),
    "image": Recipe(
        calls=[call("/models/m", {"inputs": "a cat"}, headers={"accept": "image/png"}, index=3)],
        form={"output_format": "webp", "output_compression": 80},
    ),
    "embedding": Recipe(calls=[call("/embeddings", {"input": ["a", "b"], "dimensions": 64})]),
    "array": Recipe(calls=[call("/", [{"b": 1, "a": [1.5, 2, True, None]}])]),
    "sound": Recipe(
        calls=[Call(path="/models/w", body=b"RIFF\xff", headers={"content-type": "audio/wav"})]
    ),
    "not quite JSON": Recipe(calls=[Call(path="/models/w", body=b'{"a": 1')]),
    "multipart": Recipe(calls=[multipart("0123")], form={"response_format": "srt"}),
    "media": Recipe(form={"language": "fr"}, media=b"fLaC\0"),
}

GOLDEN = {
    "nothing": "02563bf5eda01124ec7909207972d1680fd260425dc4bb3c89bd979826e49b3e",
    "chat": "83e1f2f28365b435ced845332989bef7077f8fe4b1a35fb845530e4d6b4b9cb8",
    "generate": "8f3813227e55f017345b7ca8e69735d6fd21607e89d0d64fba611192ab1b1dac",
    "unseeded": "23c25efcd70dfe21d71ce5c1628924be29fa93176ae337af392921f8f00f51b3",
    "two calls": "11b2695e906d1b856844745ce17dcabf8b7e60cd4ba572d4875cb237c45cea51",
    "image": "41defc88e32de74c251f5eb00ca899b64c14c051f0dc58a9f462e1069bf89201",
    "embedding": "c2b9673a5de5457de02fb2d2a5a218e128a9220440b7c7fd9ad2fb3eb5eb548c",
    "array": "2f237803925ed98f5212408cbc9d461b23a6fb68c799edc0771e58f875a6e961",
    "sound": "0f4ca9d461d608bc4453f048304bdd8957cf09fb4ac92529f5900c583cb96565",
    "not quite JSON": "f568737bc22798c9e19e4af35bf2e5c55cb121aab55d6c24c1a7fb17c39c1531",
    "multipart": "1b6452e526fdd5c2bce0a37f552ee00b1fd8e57329d8befea69826c476a30697",
    "media": "56a88cff740dfb6c0e25cada1f4b82abbc6dc2c9dcf9fd88851125b693d6ae7b",
}


def digests() -> dict[str, str]:
    """Return the digest of each recipe."""
    return {name: digest(recipe, **NAMES) for name, recipe in RECIPES.items()}


if __name__ == "__main__":
    print(json.dumps(digests()))
