"""What the gateway says of itself: the standard library's logging, as lines on standard error."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Literal

import msgspec

from gateway.config import Logs
from gateway.logs import tracebacks
from gateway.logs.lines import Lines
from gateway.logs.repetition import WINDOW_SECONDS, Held, Repetition
from gateway.logs.scrubbing import escape, escape_for_json, scrub
from gateway.times import iso_ms

_OWN = ("gateway", "adapters")
_SELF_WILLED = ("transformers", "huggingface_hub")  # give their loggers handlers when imported
_LONGEST_MESSAGE, _LONGEST_TRACEBACK = 8_000, 32_000  # characters
_ASYNCIO = "asyncio"

logger = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    time: str
    level: str
    logger: str
    message: str
    exception: str | None = None


class Diagnostics(logging.Handler):
    """Writes records as lines, without credentials, nothing over and over."""

    def __init__(self, settings: Logs, lines: Lines, *, is_text: bool) -> None:
        super().__init__()
        self._lines = lines
        self._render = _render_text if is_text else _render_json
        self._tells_all = settings.payloads
        self._repetition = Repetition(self._tell_held)

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`, unless it repeats others."""
        if not self._repetition.admits(record):
            return
        exception = None
        if record.exc_info and (error := record.exc_info[1]) is not None:
            told = tracebacks.render(error, tells_all=self._tells_all)
            exception = scrub(told[-_LONGEST_TRACEBACK:])
        self._put(record.levelno, record.name, _message(record), exception)

    def close(self) -> None:
        """Write what was held back, and wait a second at most until all is written."""
        self._repetition.close()
        self._lines.close()
        super().close()

    def _tell_held(self, held: Held) -> None:
        message = f"… {held.count} times more in {WINDOW_SECONDS:.0f} s: {held.template}"
        self._put(held.level, held.logger, message)

    def _put(self, level: int, name: str, message: str, exception: str | None = None) -> None:
        entry = _Entry(
            time=iso_ms(time.time_ns() // 1_000_000),
            level=logging.getLevelName(level).lower(),
            logger=name,
            message=scrub(message[:_LONGEST_MESSAGE]),
            exception=exception,
        )
        self._lines.put(self._render(entry))


def configure_logging(settings: Logs, *, fd: int = 2) -> Diagnostics:
    """Send all that this process logs to `fd`; return the handler, which the interpreter closes.

    `settings.level` is that of the gateway's own loggers. Others' start at `warning`: at lower
    ones some show statements and requests as they are.
    """
    is_text = is_for_people(settings.format, fd)
    tell = _tell_dropped_as_text if is_text else _tell_dropped_as_json
    handler = Diagnostics(settings, Lines(fd, tell=tell, pause_seconds=0), is_text=is_text)
    level = logging.getLevelName(settings.level.upper())
    handler.setLevel(level)  # some loggers have levels of their own
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in _OWN:
        logging.getLogger(name).setLevel(level)
    for name in _SELF_WILLED:
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.__class__ = _Subordinate
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable
    return handler


class _Subordinate(logging.Logger):
    """The logger of a library, whose records take the same way as all others.

    They would pass by what takes credentials out of them, and be no JSON.
    """

    @property
    def propagate(self) -> bool:
        """Always true."""
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass

    def addHandler(self, hdlr: logging.Handler) -> None:
        """Do without."""


def is_for_people(form: Literal["auto", "json", "text"], fd: int) -> bool:
    """Tell whether lines on `fd` are to be text rather than JSON."""
    return form == "text" or (form == "auto" and os.isatty(fd))


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):
        message = f"{record.msg} (which its arguments do not fit)"
    if record.name == _ASYNCIO:
        # Below its first line stand the representations of tasks and their results.
        return message.partition("\n")[0]
    return message


def _render_json(entry: _Entry) -> bytes:
    told = msgspec.structs.replace(
        entry,
        message=escape_for_json(entry.message),
        exception=entry.exception and escape_for_json(entry.exception),
    )
    return msgspec.json.encode(told) + b"\n"


def _render_text(entry: _Entry) -> bytes:
    lines = [f"{entry.time} {entry.level.upper()} {entry.logger}: {escape(entry.message)}"]
    if entry.exception:
        # Set in, so that none of it looks like a line of its own.
        lines += [f"    {escape(line)}" for line in entry.exception.split("\n") if line]
    return "\n".join(lines).encode(errors="backslashreplace") + b"\n"


def _tell_dropped_as_json(count: int) -> bytes:
    return _render_json(_dropped(count))


def _tell_dropped_as_text(count: int) -> bytes:
    return _render_text(_dropped(count))


def _dropped(count: int) -> _Entry:
    return _Entry(
        time=iso_ms(time.time_ns() // 1_000_000),
        level="warning",
        logger=__name__,
        message=f"{count} lines were dropped: nobody has read them",
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("ended by %s", kind.__name__, exc_info=error)


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "unknown"
        logger.error("thread %r ended by %s", name, args.exc_type.__name__, exc_info=args.exc_value)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        logger.error("ignored %s", args.exc_type.__name__, exc_info=args.exc_value)
