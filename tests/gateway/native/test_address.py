"""Paths of the native API, and the models that they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.native.address import FACE, Address, parse_address

NAMES = st.text("abcXYZ09-._", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/models/gpt2", Address("gpt2")),
        ("/models/org/name/", Address("org/name")),
        ("/hf-inference/models/org/name", Address("org/name")),
        ("/models/org/name/generate", Address("org/name", "generate")),
        ("/models/org/name/generate_stream", Address("org/name", "generate_stream")),
        ("/models/org/name/v1/chat/completions", Address("org/name", "v1/chat/completions")),
        ("/models/gpt2/v1/completions", Address("gpt2", "v1/completions")),
        ("/models/gpt2/info", Address("gpt2", "info")),
        ("/models/info", Address("info")),
        ("/pipeline/fill-mask/org/name", Address("org/name", pipeline="fill-mask")),
        ("/models/org/name/pipeline/fill-mask", Address("org/name", pipeline="fill-mask")),
        ("/hf-inference/pipeline/fill-mask/gpt2", Address("gpt2", pipeline="fill-mask")),
        ("/models/", None),
        ("/models", None),
        ("/modelsgpt2", None),
        ("/pipeline/fill-mask", None),
        ("/hf-inference/", None),
        ("/hf-inference/v1/models", None),
    ],
)
def test_a_path_means_a_model_and_what_of_it(path, meant):
    assert parse_address(path) == meant


@given(st.lists(NAMES, min_size=1, max_size=2), st.sampled_from(["", "generate", "tokenize"]))
def test_ids_have_a_slash_or_none(parts, ending):
    model = "/".join(parts)
    path = f"/models/{model}/{ending}".rstrip("/")
    assert parse_address(path) == Address(model, ending)


@pytest.mark.parametrize(
    ("ending", "allowed"),
    [
        ("", "GET, POST, OPTIONS"),
        ("info", "GET, OPTIONS"),
        ("health", "GET, OPTIONS"),
        ("tokenize", "POST, OPTIONS"),
    ],
)
def test_each_ending_has_its_methods(ending, allowed):
    assert Address("m", ending).allowed == allowed


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/hf-inference/models/org/name/", "/models/{model}"),
        ("/models/gpt2/v1/completions", "/models/{model}/v1/completions"),
        ("/models/org/name/pipeline/fill-mask", "/pipeline/{task}/{model}"),
    ],
)
def test_a_template_has_nothing_that_clients_chose(path, template):
    assert parse_address(path).template == template


@pytest.mark.parametrize("path", [b"/models/x", b"//models", b"/api/whoami-v2", b"/status/x"])
def test_these_paths_have_the_native_face(path):
    assert FACE.match(path)


@pytest.mark.parametrize("path", [b"/v1/models/x", b"/modelsx", b"/admin/models", b"/"])
def test_those_do_not(path):
    assert not FACE.match(path)
