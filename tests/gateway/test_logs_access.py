"""A request is one line, which holds what the ledger has and nothing of what was said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adapters.base import Media, Task
from gateway.access import Access
from gateway.config import Logs
from gateway.exchange import Exchange
from gateway.found import Found
from gateway.keys import Caller
from gateway.ledger import Record
from gateway.logs.access_log import AccessLog

CALLER = Caller(id="Ab3dEf9h", name="test", team="research")
KEY = "sk-dm_abcd1234" + "S" * 38

Log = Callable[..., list[Any]]


@pytest.fixture
def log() -> Iterator[Log]:
    """Tell of one request, by these settings, and return the lines that come of it."""
    reader, writer = os.pipe()

    def tell(access: Access, *, user: object = CALLER, answer: bytes = b"", **options: Any) -> Any:
        settings = Logs(**{"format": "json", **options})
        log = AccessLog(settings, fd=writer)
        scope: Any = {"user": user} if user else {}
        log.began(access, scope)
        access.note_sent(answer)
        log.ended(access, scope)
        log.lines.close()
        os.set_blocking(reader, False)
        try:
            lines = os.read(reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []
        return lines if settings.format == "text" else [json.loads(line) for line in lines]

    yield tell
    os.close(reader)
    os.close(writer)


def made_access(**fields: Any) -> Access:
    given = {"route": "/v1/chat/completions", "status": 200, "seconds": 0.25, "is_complete": True}
    return Access(**{"id": "an id", "method": "POST", **given, **fields})


def made_exchange(body: dict[str, Any] | None = None, **fields: Any) -> Exchange:
    body = {"model": "m", "stream": True, **(body or {})}
    return Exchange(id="an id", task=Task.CHAT, caller=CALLER, body=body, **fields)


def made_record(**fields: Any) -> Record:
    given = {"request_id": "an id", "key_id": CALLER.id, "model": "m", "target": "t"}
    return Record(**{**given, "upstream": "u", "task": "chat", **fields})


def test_a_request_is_told_as_the_ledger_has_it(log):
    record = made_record(
        finish="stop", input_tokens=12, output_tokens=34, nano_usd=56, estimated=True, cached=True
    )
    exchange = made_exchange(
        record=record, found=Found(tapes=(), status="hit"), upstream_ms=120.7, first_token_ms=80
    )
    [line] = log(made_access(exchange=exchange, sent_bytes=1000))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "id": "an id",
        "key": "Ab3dEf9h",
        "team": "research",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "task": "chat",
        "stream": True,
        "ms": 250.0,
        "upstream_ms": 120,
        "first_token_ms": 80,
        "input_tokens": 12,
        "output_tokens": 34,
        "nano_usd": 56,
        "estimated": True,
        "cache": "hit",
        "cached": True,
        "finish": "stop",
        "bytes": 1000,
    }


def test_a_request_that_asked_nothing_of_a_model_is_told_too(log):
    [line] = log(made_access(method="GET", route="", status=404, code="unknown_url"), user=None)
    assert (line["status"], line["code"]) == (404, "unknown_url")
    assert not {"key", "task", "model"} & set(line)


def test_the_operator_is_told_by_name(log):
    [line] = log(made_access(route="/admin/keys"), user="admin")
    assert line["key"] == "admin"


@pytest.mark.parametrize("route", ["/health", "/ready", "/metrics"])
def test_probes_are_told_only_if_they_fail(log, route):
    assert log(made_access(route=route), user=None) == []
    [line] = log(made_access(route=route, status=503), user=None)
    assert line["status"] == 503


def test_a_stream_that_broke_off_is_told_as_an_error(log):
    record = made_record(status="error", finish="upstream_error")
    [line] = log(made_access(exchange=made_exchange(record=record)))
    assert (line["level"], line["status"], line["code"]) == ("error", 200, "upstream_error")
    assert "finish" not in line


def test_a_client_that_left_is_told(log):
    record = made_record(status="disconnected", finish="client_disconnected")
    [line] = log(made_access(exchange=made_exchange(record=record)))
    assert line["disconnected"]
    [line] = log(made_access(status=0, is_complete=False))
    assert line["disconnected"]


def test_a_failure_of_ours_is_an_error_and_the_clients_is_not(log):
    assert log(made_access(status=502))[0]["level"] == "error"
    assert log(made_access(status=400))[0]["level"] == "info"


def test_the_trace_is_named(log):
    trace = (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),)
    assert log(made_access(trace=trace))[0]["trace_id"] == "a" * 32


def test_an_upstreams_own_word_is_no_code(log):
    access = made_access(code="You said: kill me", exchange=made_exchange())
    assert log(access)[0]["code"] == "other"
    record = made_record(finish="because you said so")
    assert log(made_access(exchange=made_exchange(record=record)))[0]["finish"] == "other"


def test_text_is_one_short_line(log):
    record = made_record(input_tokens=12, output_tokens=34)
    access = made_access(exchange=made_exchange(record=record), code="x\n")
    [line] = log(access, format="text")
    assert line.partition("  ")[2] == (
        "200 POST /v1/chat/completions  250 ms  other  Ab3dEf9h/research  12+34 tokens"
    )


def test_payloads_are_not_told_unless_they_are_asked_for(log):
    exchange = made_exchange({"messages": "the prompt"})
    [line] = log(made_access(exchange=exchange), answer=b"the answer")
    assert not {"request", "answer"} & set(line)
    [line] = log(made_access(exchange=exchange), answer=b"the answer", payloads=True)
    assert json.loads(line["request"])["messages"] == "the prompt"
    assert line["answer"] == "the answer"


def test_payloads_are_cut(log):
    exchange = made_exchange({"prompt": ["word " * 10_000] * 1000})
    [line] = log(
        made_access(exchange=exchange), answer="ü".encode() * 5000, payloads=True, payload_chars=50
    )
    assert len(line["request"]) == 50
    assert line["answer"] == "ü" * 50


def test_credentials_in_payloads_are_taken_out(log):
    exchange = made_exchange({"prompt": f"my key is {KEY}"})
    [line] = log(made_access(exchange=exchange), answer=KEY.encode(), payloads=True)
    assert "SSS" not in str(line)
    assert line["answer"] == "sk-dm_abcd1234…"


def test_of_media_only_the_size_is_told(log):
    body = {"image": "data:image/png;base64," + "iVBORw0KGgo" * 30_000, "sound": Media(b"RIFF" * 9)}
    [line] = log(made_access(exchange=made_exchange(body)), payloads=True)
    told = json.loads(line["request"])
    assert told["image"] == "data:image/png;base64,<330000 characters of base64>"
    assert told["sound"] == "<36 bytes>"


@pytest.mark.parametrize("answer", [b"ID3\0\0\0\xff\xfb\x90", b"\xff\xd8\xff\xe0"])
def test_an_answer_that_is_no_text_is_not_told(log, answer):
    [line] = log(made_access(exchange=made_exchange()), answer=answer, payloads=True)
    assert line["answer"] == "<not a text>"


def test_an_answers_images_are_not_told(log):
    answer = b'{"data":[{"b64_json":"' + b"iVBORw0KGgo" * 1000
    [line] = log(made_access(exchange=made_exchange()), answer=answer, payloads=True)
    assert line["answer"] == '{"data":[{"b64_json":"<base64>'


@pytest.mark.parametrize("value", ["\ud800", float("nan"), {"\udfff": 1}, object(), None])
def test_no_body_is_too_odd_to_be_told(log, value):
    [line] = log(made_access(exchange=made_exchange({"odd": value})), payloads=True)
    assert "odd" in json.loads(line["request"])
