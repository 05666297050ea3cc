"""Native bodies: what is looked into, and what is passed on untouched."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.native_calls import Operation, native_path
from gateway.errors import BadRequest
from gateway.native.request import parse_native

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def parsed(body: object, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_native(data, content_type="application/json", **options)


@given(st.dictionaries(st.text(), VALUES), VALUES)
def test_a_body_is_passed_on_as_it_came(members, inputs):
    body = {k: v for k, v in members.items() if k not in ("parameters", "options")}
    data = json.dumps(body | {"inputs": inputs}, indent=1).encode()
    assert parse_native(data, content_type="application/json").payload() == data


@given(VALUES, VALUES)
def test_a_change_leaves_the_rest_as_it_came(inputs, other):
    data = json.dumps({"inputs": inputs, "other": other}).encode()
    sent = json.loads(parsed(data).payload({"stream": True}))
    assert sent == {"inputs": inputs, "other": other, "stream": True}


def test_the_spelling_of_numbers_survives_a_change():
    data = b'{"inputs":"x","parameters":{"top_p":0.90,"seed":18446744073709551615},"stream":true}'
    sent = parsed(data).payload({"stream": None})
    assert sent == b'{"inputs":"x","parameters":{"top_p":0.90,"seed":18446744073709551615}}'


@pytest.mark.parametrize(
    ("kind", "data", "is_json"),
    [
        ("application/json", b'{"inputs": 1}', True),
        ("application/json; charset=UTF-8", b'{"inputs": 1}', True),
        ("application/x-www-form-urlencoded", b' {"inputs": 1}', True),
        ("", b'{"inputs": 1}', True),
        ("", b"\xff\xd8\xff", False),
        ("audio/flac", b"fLaC", False),
    ],
)
def test_what_is_json_is_told_by_type_or_by_its_first_byte(kind, data, is_json):
    assert parse_native(data, content_type=kind).is_json is is_json


@pytest.mark.parametrize(
    ("data", "said", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (b"fLaC\0\0\0\x22", "application/octet-stream", "audio/flac"),
        (b"nothing known", "audio/x-own", "audio/x-own"),
        (b"nothing known", "", "application/octet-stream"),
    ],
)
def test_bytes_are_called_what_they_are(data, said, kind):
    assert parse_native(data, content_type=said).content_type == kind


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("image/png", "image/png"),
        ("audio/wav", "audio/wav"),
        ("*/*", ""),
        ("image/png, */*", ""),
        ("application/json", ""),
        ("text/event-stream", ""),
    ],
)
def test_only_one_type_of_picture_or_sound_is_asked_for(accept, wanted):
    assert parsed({"inputs": "x"}, accept=accept).accept == wanted


@pytest.mark.parametrize(
    ("operation", "body", "streams"),
    [
        (Operation.PREDICT, {}, False),
        (Operation.PREDICT, {"stream": True}, True),
        (Operation.PREDICT, {"stream": None}, False),
        (Operation.GENERATE, {"stream": True}, False),
        (Operation.GENERATE_STREAM, {"stream": False}, True),
    ],
)
def test_the_path_says_whether_the_field_stream_counts(operation, body, streams):
    assert parsed({"inputs": "x"} | body, operation=operation).asks_stream is streams


@pytest.mark.parametrize(
    ("parameters", "draws"),
    [
        (None, True),
        ({}, True),
        ({"max_new_tokens": 5}, False),
        ({"do_sample": False}, False),
        ({"do_sample": True}, True),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.5}, True),
        ({"temperature": None}, True),
        ({"top_k": 3}, True),
        ({"top_p": 0.9}, True),
        ({"typical_p": 0.9}, True),
    ],
)
def test_a_text_is_drawn_as_tgi_draws(parameters, draws):
    assert parsed({"inputs": "x", "parameters": parameters}).draws is draws


def test_nulls_count_as_absent():
    asked = parsed({"inputs": "x", "parameters": {"seed": None}, "options": None})
    assert (asked.parameters, asked.options) == ({}, {})


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"nope", 400),
        (b"[]", 400),
        (b'{"inputs": NaN}', 400),
        (b'{"inputs": "\xff"}', 400),
        (b"{}", 422),
        (b'{"inputs": "x", "options": 1}', 422),
    ],
)
def test_what_is_no_request_is_refused(data, status):
    with pytest.raises(BadRequest) as refused:
        parsed(data)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("dialect", "model", "operation", "pipeline", "path"),
    [
        ("hf", "o/m", Operation.GENERATE, None, "/models/o/m"),
        ("hf", "", Operation.PREDICT, "fill-mask", "/"),
        ("hf-inference", "o/m", Operation.PREDICT, "fill-mask", "/models/o/m/pipeline/fill-mask"),
        ("tgi", "o/m", Operation.PREDICT, None, "/"),
        ("tgi", "o/m", Operation.GENERATE_STREAM, None, "/generate_stream"),
        ("tei", "o/m", Operation.PREDICT, "sentence-similarity", "/similarity"),
        ("tei", "o/m", Operation.PREDICT, None, "/"),
    ],
)
def test_servers_are_asked_at_their_own_paths(dialect, model, operation, pipeline, path):
    assert native_path(dialect, model, operation, pipeline) == path
