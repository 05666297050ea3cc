"""Tool calls, read out of generated text while it is being generated.

A model writes a call as text in the style that its chat template taught it. `ToolParser` takes
that text in pieces of any size and returns OpenAI's deltas: `{"content": …}` for what is plain
text, `{"tool_calls": […]}` for calls. A call is certain once its name, one of `tool_names`, and
the opening brace of its arguments have come; from there the arguments are passed on as they
arrive. Whatever turns out not to be a call is given back as content, character for character.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from adapters.base import Json, ToolStyle
from adapters.json_text import ObjectScanner, call_of, parse_string
from adapters.tool_calls import arguments_delta, collect_calls, new_call_id, opening_delta
from adapters.tool_forms import FORMS, HEAD, NAMED, NAMED_MAX_CHARS, SPECIAL_MARKERS, partial_size

__all__ = ["SPECIAL_MARKERS", "ToolParser", "collect_calls", "new_call_id", "parse"]


def parse(
    style: ToolStyle,
    text: str,
    *,
    tool_names: Collection[str],
    parallel: bool = True,
    new_id: Callable[[], str] = new_call_id,
) -> tuple[str | None, list[Json]]:
    """Return the content and the calls of a whole answer. None stands for no content at all."""
    parser = ToolParser(style, tool_names=tool_names, parallel=parallel, new_id=new_id)
    deltas = parser.feed(text) + parser.end()
    content = "".join(delta.get("content", "") for delta in deltas)
    return content or None, collect_calls(deltas)


class ToolParser:
    """One answer's calls: `feed` and `end` return OpenAI's deltas, in order.

    The same text gives the same content and calls however it is split. `parallel` false keeps
    the first call and swallows the others. An answer that is cut off inside a call's arguments
    leaves them unfinished, as OpenAI does with `finish_reason` `length`.
    """

    __slots__ = (
        "_buffer",
        "_count",
        "_form",
        "_in_list",
        "_names",
        "_new_id",
        "_out",
        "_parallel",
        "_pending",
        "_scanner",
        "_state",
        "style",
    )

    def __init__(
        self,
        style: ToolStyle,
        *,
        tool_names: Collection[str],
        parallel: bool = True,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.style = style
        self._form = FORMS[style]
        self._names = frozenset(tool_names)
        self._parallel, self._new_id = parallel, new_id
        self._count = 0
        self._buffer = ""  # not looked at yet
        self._pending = ""  # read, and content again should no call follow
        self._in_list = False
        self._scanner = ObjectScanner()
        self._out: list[Json] = []
        # A state consumes from the buffer; it returns false when it needs more text.
        self._state: Callable[[bool], bool] = self._seek if self._form.anywhere else self._start

    @property
    def called(self) -> bool:
        """Whether a call was found so far."""
        return self._count > 0

    def feed(self, text: str) -> list[Json]:
        """Return the deltas that `text` makes certain."""
        self._buffer += text
        return self._run(final=False)

    def end(self) -> list[Json]:
        """Return what was held back: the answer is over."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Json]:
        while self._state(final):
            pass
        if final:
            rest = self._pending + self._buffer
            self._pending = self._buffer = ""
            if not (self.called and rest.isspace()):
                self._content(rest)
        out, self._out = self._out, []
        return out

    def _start(self, final: bool) -> bool:
        """Look whether the answer begins with a call; otherwise all of it is content."""
        text = self._buffer.lstrip()
        if text.startswith("{"):
            return self._expect_object(len(self._buffer) - len(text))
        opening = self._form.opening
        if opening and text.startswith(opening):
            self._take(len(self._buffer) - len(text) + len(opening))
            self._state = self._before_object
            return True
        undecided = not text or (bool(opening) and opening.startswith(text))
        return not undecided and self._give_up(self._plain)

    def _seek(self, final: bool) -> bool:
        """Pass content on up to the next opening mark, and hold white space before it."""
        opening = self._form.opening
        at = self._buffer.find(opening)
        if at < 0:
            held = partial_size(self._buffer, opening)
            self._content_up_to(len(self._buffer) - held)
            return False
        self._content_up_to(at)
        self._take(self._buffer.find(opening) + len(opening))
        self._state = self._mistral if self.style is ToolStyle.MISTRAL else self._before_object
        return True

    def _mistral(self, final: bool) -> bool:
        """Tell the list `[{…}, …]` from the newer `name[ARGS]{…}`."""
        text = self._buffer.lstrip()
        if text.startswith("["):
            self._in_list = True
            self._take(len(self._buffer) - len(text) + 1)
            self._state = self._before_object
            return True
        if "{" not in text[:NAMED_MAX_CHARS]:
            return len(text) >= NAMED_MAX_CHARS and self._give_up(self._seek)
        head = NAMED.match(self._buffer)
        if not head or head[1] not in self._names:
            return self._give_up(self._seek)
        self._take(head.end())
        self._open_call(head[1])
        self._state = self._named_arguments
        return True

    def _before_object(self, final: bool) -> bool:
        """Skip white space up to an object; anything else was no call."""
        text = self._buffer.lstrip()
        if not text:
            return False
        if text.startswith("{"):
            return self._expect_object(len(self._buffer) - len(text))
        return self._give_up(self._elsewhere)

    def _expect_object(self, at: int) -> bool:
        self._take(at)
        self._scanner = ObjectScanner()
        self._state = self._object
        return True

    def _object(self, final: bool) -> bool:
        """Read a call's object: by its head if it tells the name first, else when complete."""
        if head := HEAD.match(self._buffer):
            name = parse_string(head[1])
            if name is None or name not in self._names:
                return self._give_up(self._elsewhere)
            self._take(head.end())
            self._open_call(name)
            self._state = self._arguments
            return True
        end = self._scanner.end_in(self._buffer)
        if end is None:
            return self._scanner.broken and self._give_up(self._elsewhere)
        call = call_of(self._buffer[:end])
        self._take(end)
        if call is None or call[0] not in self._names:
            return self._give_up(self._elsewhere)
        self._open_call(call[0])
        self._fragment(call[1])
        self._state = self._after
        return True

    def _named_arguments(self, final: bool) -> bool:
        return self._stream_arguments(self._after)

    def _arguments(self, final: bool) -> bool:
        return self._stream_arguments(self._object_rest)

    def _stream_arguments(self, following: Callable[[bool], bool]) -> bool:
        """Pass the arguments on as they come, up to their closing brace."""
        end = self._scanner.end_in(self._buffer)
        size = self._scanner.seen
        self._fragment(self._buffer[:size])
        self._buffer = self._buffer[size:]
        self._scanner.seen = 0
        if self._scanner.broken:
            return self._give_up(self._elsewhere)
        if end is not None:
            self._scanner = ObjectScanner(depth=1)
            self._state = following
        return end is not None

    def _object_rest(self, final: bool) -> bool:
        """Read what follows the arguments inside the object: its end, or keys of no interest."""
        end = self._scanner.end_in(self._buffer)
        if self._buffer.lstrip()[:1] not in ",}" or self._scanner.broken:
            return self._give_up(self._elsewhere)
        if end is None:
            return False
        self._buffer = self._buffer[end:]
        self._state = self._after
        return True

    def _after(self, final: bool) -> bool:
        """Read what a style puts between calls or after the last one."""
        text = self._buffer.lstrip()
        if not text:
            return False
        if self._in_list:
            return self._after_list_item(text)
        mark = self._form.closing or (self._form.opening if self._form.several else "")
        if mark.startswith(text) and not final:
            return False
        if self._form.closing:
            shut = text.startswith(mark) or mark.startswith(text)
            self._buffer = text[len(mark) :] if shut else self._buffer
            self._state = self._elsewhere
        elif self._form.several and (text[0] in "{;" or text.startswith(mark)):
            rest = text.removeprefix(mark).removeprefix(";")
            self._take(len(self._buffer) - len(rest))
            self._state = self._before_object
        else:
            self._state = self._elsewhere
        return True

    def _after_list_item(self, text: str) -> bool:
        if text[0] == ",":
            self._take(len(self._buffer) - len(text) + 1)
            self._state = self._before_object
            return True
        self._in_list = False
        self._state = self._seek
        if text[0] == "]":
            self._buffer = text[1:]
        return True

    def _elsewhere(self, final: bool) -> bool:
        """Go on where no call is open: look for the next mark, or let all through."""
        self._in_list = False
        self._state = self._seek if self._form.anywhere else self._plain
        return True

    def _plain(self, final: bool) -> bool:
        self._content_up_to(len(self._buffer))
        return False

    def _take(self, size: int) -> None:
        """Move `size` characters aside; they are content again if no call follows."""
        self._pending += self._buffer[:size]
        self._buffer = self._buffer[size:]

    def _give_up(self, following: Callable[[bool], bool]) -> bool:
        """Return what was taken for a call as content."""
        pending, self._pending = self._pending, ""
        self._content(pending)
        self._state = following
        return True

    def _content_up_to(self, size: int) -> None:
        """Pass on `size` characters, save white space that may stand before a call."""
        text = self._buffer[:size]
        kept = len(text.rstrip()) if self._state == self._seek else len(text)
        self._content(text[:kept])
        self._buffer = self._buffer[kept:]

    def _content(self, text: str) -> None:
        if text:
            self._out.append({"content": text})

    def _open_call(self, name: str) -> None:
        self._pending = ""
        self._scanner = ObjectScanner()
        self._count += 1
        if self._wanted:
            index = self._count - 1
            self._out.append(opening_delta(index, call_id=self._new_id(), name=name))

    def _fragment(self, arguments: str) -> None:
        if arguments and self._wanted:
            self._out.append(arguments_delta(self._count - 1, arguments))

    @property
    def _wanted(self) -> bool:
        return self._parallel or self._count == 1
