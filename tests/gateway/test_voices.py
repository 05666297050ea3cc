"""What an operator says about a speech model's voices, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.voices import OPENAI_VOICES, Voices


def configured(dialect: str = "hf", **options: Any) -> Settings:
    return Settings(
        upstreams=[{"name": "up", "dialect": dialect, "base_url": "http://127.0.0.1:1"}],
        models=[{"id": "m", "task": "speech", "targets": [{"upstream": "up"}], **options}],
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "chat", "default_voice": "x"}, "default_voice: for models of the task 'speech'"),
        ({"task": "image", "voices": {"a": "b"}}, "voices: for models of the task 'speech' only"),
        ({"voice_parameter": "has space"}, "voice_parameter"),
        ({"speed_parameter": ""}, "speed_parameter"),
        ({"voices": {"alloy": ""}}, "voices.alloy"),
        ({"voices": {"a": "x", "b": "y"}}, "models.m.voice_parameter: expected"),
        ({"voices": {"a": "x"}, "default_voice": "y"}, "models.m.voice_parameter: expected"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        configured(**options)


@pytest.mark.parametrize(
    ("dialect", "options"),
    [
        ("hf", {}),
        ("hf", {"voices": {"a": "x", "b": "x"}}),
        ("hf", {"voices": {"a": "x", "b": "y"}, "voice_parameter": "voice_preset"}),
        ("openai", {"voices": {"a": "x", "b": "y"}, "default_voice": "z"}),
    ],
)
def test_what_can_work_is_taken(dialect: str, options: dict[str, Any]) -> None:
    assert configured(dialect, **options).models[0].id == "m"


NAMED = {"alloy": "heart", "mine": "bear"}


@pytest.mark.parametrize(
    ("voices", "asked", "told"),
    [
        (Voices(), "nova", None),
        (Voices(default="heart"), "nova", "heart"),
        (Voices(default="heart"), "heart", "heart"),
        (Voices(named=NAMED), "alloy", "heart"),
        (Voices(named=NAMED), {"id": "mine"}, "bear"),
        (Voices(named=NAMED, default="owl"), "nova", "owl"),
        (Voices(named=NAMED, default="owl"), "alloy", "heart"),
    ],
)
def test_a_name_stands_for_a_voice_of_the_model(voices: Voices, asked: Any, told: Any) -> None:
    assert voices.resolve(asked, is_open=False) == told
    if told is not None:
        assert voices.resolve(asked, is_open=True) == told


@pytest.mark.parametrize(
    ("voices", "asked"),
    [(Voices(), "tara"), (Voices(), {"id": "v"}), (Voices(default="x"), "y"), (Voices(), "nova")],
)
def test_an_upstream_that_knows_its_voices_gets_the_name_as_it_came(
    voices: Voices, asked: Any
) -> None:
    assert voices.resolve(asked, is_open=True) == asked


@pytest.mark.parametrize("is_open", [True, False])
def test_configured_voices_are_the_only_ones(is_open: bool) -> None:
    with pytest.raises(BadRequest, match="Supported values are: 'alloy', 'mine'") as refusal:
        Voices(named=NAMED).resolve("nova", is_open=is_open)
    assert refusal.value.param == "voice"


def test_known_voices_are_those_that_can_be_asked_for() -> None:
    assert Voices().known == OPENAI_VOICES
    assert Voices(named=NAMED).known == ("alloy", "mine")
    assert Voices(default="alloy").known == OPENAI_VOICES
    assert Voices(named=NAMED, default="owl").known[-2:] == ("cedar", "owl")
