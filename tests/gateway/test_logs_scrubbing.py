"""What looks like a credential is taken out of a text, what forges a line too."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import generate, generate_admin
from gateway.logs.scrubbing import escape, escape_for_json, scrub

SECRET = "q7Xv9ZpLm2Kd8RtYw4Bn6CjHs1FgQa3e"
UUID = "01234567-89ab-cdef-0123-456789abcdef"

SHAPES = [
    "sk-{}",
    "sk-proj-{}",
    "sk-ant-api03-{}",
    "sk-dm-admin_{}",
    "hf_{}",
    "r8_{}",
    "ghp_{}",
    "AIza{}",
    "xoxb-{}",
    "Bearer {}",
    "bearer  {}",
    "Authorization: Bearer {}",
    "Authorization: Basic {}",
    "'authorization': '{}'",
    '{{"authorization":"Key {}"}}',
    "(b'authorization', b'{}')",
    "redis://:{}@10.0.0.1:6379/0",
    "rediss://user:{}@host",
    "postgresql+pg8000://dragoman:{}@db.example/dragoman?sslmode=require",
    "postgresql://u:{}@p@host/db",
    "https://host/path?key={}",
    "https://host/path?a=b&sig={}&c=d",
    "https://host/path?X-Amz-Signature={}",
    "api_key={}",
    'api_key: "{}"',
    "OPENAI_API_KEY={}",
    "token={}",
    "password={}",
    '{{"password": "{}"}}',
    "AWS_SECRET_ACCESS_KEY={}",
    "access_token={}&x=1",
    "eyJhbGciOiJIUzI1NiJ9.{}.{}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{}",
]


@pytest.mark.parametrize("around", ["{}", "it said {} today", '{{"a": "{}"}}', "x\n{}\ny"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_credential_is_taken_out(shape, around):
    text = around.format(shape.replace("{}", SECRET).replace("{{", "{").replace("}}", "}"))
    scrubbed = scrub(text)
    assert SECRET not in scrubbed
    assert "…" in scrubbed


def test_an_aws_key_is_taken_out():
    assert scrub("id AKIAIOSFODNN7EXAMPLE.") == "id AKIA…."


def test_a_fal_key_is_taken_out():
    assert scrub(f"Key {UUID}:0123456789abcdef0123456789abcdef") == f"Key {UUID}:…"


def test_of_an_api_key_its_public_id_is_left():
    key = generate()
    assert scrub(f"the key {key.text} is unknown") == f"the key sk-dm_{key.id}… is unknown"


def test_an_admin_key_is_taken_out():
    assert scrub(generate_admin()) == "sk-dm-admin_…"


@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_surroundings_hide_an_api_key(before, after):
    key = generate()
    assert key.text[-30:] not in scrub(f"{before}{key.text}{after}")


@pytest.mark.parametrize(
    "text",
    [
        "upstream 'vllm' is down",
        "http://127.0.0.1:8000/v1/models?limit=3",
        "redis://10.0.0.1:6379/0 is not asked for now: it does not answer",
        "the model 'sk-learn' does not exist",
        "meta-llama/Llama-3.3-70B-Instruct",
        "0193a1b2-c3d4-7abc-8def-0123456789ab",
        "12 tokens, hf_hub is a library, abcd1234",
        "user@example.org",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert scrub(text) == text


@pytest.mark.parametrize("part", ["sk-", "a:", "://", "Bearer ", "eyJ", "-----BEGIN ", "a_", "x"])
def test_scrubbing_takes_time_in_proportion(part):
    began = time.thread_time()
    scrub(part * (100_000 // len(part)))
    assert time.thread_time() - began < 1


@given(st.text())
def test_an_escaped_text_is_one_line_that_changes_no_terminal(text):
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in escaped)


def test_what_turns_the_direction_of_writing_is_shown():
    assert escape("a\u202eb\u2066") == "a\\u202eb\\u2066"


def test_json_keeps_what_it_escapes_itself():
    assert escape_for_json("a\nb\u2028c\x85ü") == "a\nb\\u2028c\\x85ü"
