"""What the gateway logs of itself is one line each, and holds nothing that it should not."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Logs
from gateway.logs.diagnostics import Diagnostics, configure_logging, is_for_people
from gateway.logs.lines import Lines

CANARY = "what a client had said"
KEY = "sk-dm_abcd1234" + "S" * 38

Log = Callable[[Callable[[logging.Logger], object]], list[Any]]


@pytest.fixture
def log(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Log]:
    """Do what is given with a logger, and return the lines that come of it."""
    settings = Logs(**getattr(request, "param", {}))
    is_text = settings.format == "text"
    path = tmp_path / "log"
    logger = logging.Logger("gateway.test", logging.DEBUG)

    def run(work: Callable[[logging.Logger], object]) -> list[Any]:
        with path.open("wb") as file:
            lines = Lines(file.fileno(), tell=lambda _: b"", pause_seconds=0)
            logger.handlers = [Diagnostics(settings, lines, is_text=is_text)]
            work(logger)
            logger.handlers[0].close()
        told = path.read_text().split("\n")
        assert told.pop() == ""
        return told if is_text else [json.loads(line) for line in told]

    yield run


text = pytest.mark.parametrize("log", [{"format": "text"}], indirect=True)
payloads = pytest.mark.parametrize("log", [{"payloads": True}], indirect=True)


def test_a_record_is_one_object(log):
    [line] = log(lambda logger: logger.warning("upstream %r is %s", "vllm", "down"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "gateway.test",
        "message": "upstream 'vllm' is down",
    }


@text
def test_a_record_is_one_line(log):
    [line] = log(lambda logger: logger.error("upstream %r is down", "vllm"))
    assert line.partition(" ")[2] == "ERROR gateway.test: upstream 'vllm' is down"


@text
def test_a_message_forges_no_line(log):
    forged = "x\n2030-01-01T00:00:00.000Z ERROR gateway: all is lost\r\x1b[2J\u2028\x85\x9b"
    [line] = log(lambda logger: logger.warning("%s", forged))
    assert line.endswith("x\\n2030-01-01T00:00:00.000Z ERROR gateway: all is lost\\r\\x1b[2J"
                         "\\u2028\\x85\\x9b")  # fmt: skip


def test_a_message_forges_no_object(log):
    [line] = log(lambda logger: logger.warning("%s", 'x"}\n{"level":"error"}'))
    assert line["message"] == 'x"}\n{"level":"error"}'


def fail(error: BaseException) -> Callable[[logging.Logger], None]:
    def work(logger: logging.Logger) -> None:
        try:
            try:
                raise ValueError(CANARY)
            except ValueError as cause:
                raise error from cause
        except BaseException as exc:
            logger.error("unforeseen", exc_info=exc)

    return work


def test_a_traceback_is_one_string_that_tells_where_and_what_kind(log):
    [line] = log(fail(KeyError(CANARY)))
    assert "in work\n    raise error from cause" in line["exception"]
    assert line["exception"].rstrip().endswith("\nKeyError")
    assert "\nValueError\n" in line["exception"]


def test_a_traceback_does_not_repeat_what_was_sent(log):
    group = ExceptionGroup(CANARY, [KeyError(CANARY), ExceptionGroup("", [TypeError(CANARY)])])
    for error in (ValueError(CANARY), group):
        error.add_note(CANARY)
        [line] = log(fail(error))
        assert CANARY not in str(line)
        assert type(error).__name__ in line["exception"]


def test_a_traceback_tells_what_the_machine_has_said(log):
    [line] = log(fail(FileNotFoundError(2, "No such file or directory", "/data/pepper")))
    assert "No such file or directory: '/data/pepper'" in line["exception"]


@payloads
def test_with_payloads_a_traceback_tells_all_but_credentials(log):
    [line] = log(fail(KeyError(f"{CANARY} {KEY}")))
    assert CANARY in line["exception"]
    assert KEY not in line["exception"]
    assert "sk-dm_abcd1234…" in line["exception"]


@text
def test_no_line_of_a_traceback_looks_like_one_of_the_log(log):
    _, *traceback = log(fail(OSError("x\n2030-01-01T00:00:00.000Z ERROR gateway: lost")))
    assert len(traceback) > 3
    assert all(line.startswith("    ") for line in traceback)


@pytest.mark.parametrize("log", [{}, {"format": "text"}], indirect=True)
def test_credentials_are_taken_out_of_messages_and_arguments(log):
    lines = log(lambda logger: logger.warning(f"{KEY} %s %r", KEY, {"authorization": "Key abcdef"}))
    assert "SSS" not in str(lines)
    assert "abcdef" not in str(lines)
    assert "sk-dm_abcd1234…" in str(lines)


def test_a_message_is_not_endless(log):
    [line] = log(lambda logger: logger.warning("x" * 1_000_000))
    assert len(line["message"]) == 8000


def test_what_does_not_fit_its_arguments_is_told_without_them(log):
    [line] = log(lambda logger: logger.warning("%d of %d", CANARY))
    assert line["message"] == "%d of %d (which its arguments do not fit)"


def test_of_a_task_that_failed_its_result_is_not_told(log):
    def work(logger: logging.Logger) -> None:
        logger.name = "asyncio"
        logger.error(f"Task exception was never retrieved\nfuture: <Task KeyError({CANARY!r})>")

    [line] = log(work)
    assert line["message"] == "Task exception was never retrieved"


def test_a_flood_becomes_a_few_lines(log):
    def work(logger: logging.Logger) -> None:
        for number in range(1000):
            logger.warning("upstream %d is down", number)

    *lines, last = log(work)
    assert [line["message"] for line in lines] == [f"upstream {n} is down" for n in range(5)]
    assert last["message"] == "… 995 times more in 10 s: upstream %d is down"


def test_text_is_for_terminals():
    leader, terminal = pty.openpty()
    assert is_for_people("auto", terminal)
    assert not is_for_people("json", terminal)
    os.close(leader)
    os.close(terminal)


def test_json_is_for_all_else(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        assert not is_for_people("auto", file.fileno())
        assert is_for_people("text", file.fileno())


PROGRAM = """
import asyncio, logging, sys, threading, warnings
from gateway.config import Logs
from gateway.logs.diagnostics import configure_logging
canary = sys.argv[1]
configure_logging(Logs(level="debug"))
logging.getLogger("gateway.store").debug("ours")
logging.getLogger("adapters.http").debug("ours too")
logging.getLogger("sqlalchemy.engine").info(f"SELECT '{canary}'")
logging.getLogger("sqlalchemy.pool").warning("theirs")
warnings.warn("old")
def fail(): raise KeyError(canary)
thread = threading.Thread(target=fail, name="of ours")
thread.start()
thread.join()
class Falls:
    def __del__(self): fail()
Falls()
async def main():
    asyncio.create_task(asyncio.sleep(0)).add_done_callback(lambda _: fail())
    await asyncio.sleep(0.01)
asyncio.run(main())
fail()
"""


def test_all_that_a_process_says_of_itself_goes_the_same_way():
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "yellow"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    told = [line["message"] for line in lines]
    assert told[:3] == ["ours", "ours too", "theirs"]
    assert "UserWarning: old" in told[3]
    assert told[4:6] == ["thread 'of ours' ended by KeyError", "ignored KeyError"]
    assert told[6].startswith("Exception in callback")
    assert told[7] == "ended by KeyError"
    assert "yellow" not in ended.stderr
    assert not ended.stdout


THEIRS = """
import logging, sys
from gateway.config import Logs
from gateway.logs.diagnostics import configure_logging
if sys.argv[1] == "before":
    configure_logging(Logs())
from transformers.utils import logging as theirs
import huggingface_hub
configure_logging(Logs())
for name in ("transformers", "huggingface_hub"):
    logging.getLogger(f"{name}.models").warning("%s refused", KEY)
theirs.get_logger("transformers").info("too much")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_libraries_with_handlers_of_their_own_go_the_same_way(when: str) -> None:
    program = THEIRS.replace("KEY", repr(KEY))
    env = os.environ | {"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program, when], capture_output=True, text=True, check=True, env=env
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [
        (f"{name}.models", "sk-dm_abcd1234… refused")
        for name in ("transformers", "huggingface_hub")
    ]


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the process's own logging back in the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    for place, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(place, name, getattr(place, name))
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("gateway", "adapters"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name in ("transformers", "huggingface_hub"):
        logging.getLogger(name).__class__ = logging.Logger
    logging.captureWarnings(False)


def test_a_level_above_warning_holds_for_all(restored, tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        handler = configure_logging(Logs(level="error"), fd=file.fileno())
        logging.getLogger("sqlalchemy").warning("theirs")
        logging.getLogger("gateway.store").warning("ours")
        logging.getLogger("gateway.store").error("this")
        handler.close()
    [line] = path.read_text().splitlines()
    assert json.loads(line)["message"] == "this"
