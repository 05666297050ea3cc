"""Tool calls in generated text: found in every style, however the text is split."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import ToolStyle
from adapters.tools import SPECIAL_MARKERS, ToolParser, collect_calls, new_call_id, parse

NAMES = ["weather", "time.now"]
OSLO = '{"city": "Oslo {\\"}\\\\"}'

# style, text, content, [(name, arguments)]
ANSWERS = {
    "hermes": (
        ToolStyle.HERMES,
        f'Let me see.\n<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>',
        "Let me see.",
        [("weather", OSLO)],
    ),
    "hermes twice, and text after": (
        ToolStyle.HERMES,
        '<tool_call>{"name": "weather", "arguments": {}}</tool_call>\n'
        '<tool_call>{"arguments": {"zone": 1}, "name": "time.now"}</tool_call>\nDone.',
        "\nDone.",
        [("weather", "{}"), ("time.now", '{"zone": 1}')],
    ),
    "hermes with arguments as a string": (
        ToolStyle.HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"a\\": 1}"}</tool_call>',
        None,
        [("weather", '{"a": 1}')],
    ),
    "hermes without its closing mark": (
        ToolStyle.HERMES,
        '<tool_call>{"name": "weather", "arguments": {}}',
        None,
        [("weather", "{}")],
    ),
    "llama": (
        ToolStyle.LLAMA,
        f'{{"name": "weather", "parameters": {OSLO}}}',
        None,
        [("weather", OSLO)],
    ),
    "llama with its tag, twice": (
        ToolStyle.LLAMA,
        '<|python_tag|>{"name": "weather", "parameters": {}}; '
        '{"type": "function", "name": "time.now", "parameters": {"a": [1, 2]}}\n',
        None,
        [("weather", "{}"), ("time.now", '{"a": [1, 2]}')],
    ),
    "mistral list": (
        ToolStyle.MISTRAL,
        f'Well.[TOOL_CALLS] [{{"name": "weather", "arguments": {OSLO}}}, '
        '{"name": "time.now", "arguments": {}, "id": "x"}]</s>',
        "Well.</s>",
        [("weather", OSLO), ("time.now", "{}")],
    ),
    "mistral by name": (
        ToolStyle.MISTRAL,
        f'[TOOL_CALLS]weather[ARGS]{OSLO}[TOOL_CALLS]time.now[CALL_ID]abc123XYZ[ARGS]{{"a":1}}',
        None,
        [("weather", OSLO), ("time.now", '{"a":1}')],
    ),
    "json": (
        ToolStyle.JSON,
        f' {{"name": "weather", "arguments": {OSLO}}} ',
        None,
        [("weather", OSLO)],
    ),
}
# style, text: no call, so all of it is content
LOOKALIKES = {
    "unknown name": (
        ToolStyle.HERMES,
        'So: \n<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
    ),
    "no object": (ToolStyle.HERMES, "<tool_call>\nweather(Oslo)</tool_call> and more"),
    "arguments of the wrong kind": (
        ToolStyle.HERMES,
        '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
    ),
    "brackets that do not match": (ToolStyle.HERMES, ' <tool_call>{"name": [}</tool_call> x'),
    "cut before the arguments": (ToolStyle.HERMES, 'A <tool_call>\n{"name": "weather", "argu'),
    "half a mark": (ToolStyle.HERMES, "1 <tool_cal"),
    "llama, a call after text": (
        ToolStyle.LLAMA,
        'Sure: {"name": "weather", "parameters": {}}',
    ),
    "llama, an answer in JSON": (ToolStyle.LLAMA, '{"name": "Oslo", "parameters": {}} as asked'),
    "llama, code": (ToolStyle.LLAMA, '<|python_tag|>print("hi")'),
    "mistral, a word": (ToolStyle.MISTRAL, "a [TOOL_CALLS] no call at all " + "x" * 500),
    "mistral, an empty list": (ToolStyle.MISTRAL, "[TOOL_CALLS][]"),
    "json, a text": (ToolStyle.JSON, "  hello"),
}


def _parse_in_pieces(style, pieces, **options):
    parser = ToolParser(style, tool_names=NAMES, **options)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.end()
    return "".join(d.get("content", "") for d in deltas) or None, collect_calls(deltas), deltas


def _called(calls):
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize("case", ANSWERS)
def test_calls_are_found_in_a_whole_answer(case):
    style, text, content, called = ANSWERS[case]
    found_content, calls = parse(style, text, tool_names=NAMES)
    assert (found_content, _called(calls)) == (content, called)
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in called)


@pytest.mark.parametrize("case", ANSWERS)
def test_a_call_is_found_character_by_character(case):
    style, text, content, called = ANSWERS[case]
    found_content, calls, _ = _parse_in_pieces(style, text)
    assert (found_content, _called(calls)) == (content, called)


@pytest.mark.parametrize("case", LOOKALIKES)
def test_what_only_looks_like_a_call_is_content_verbatim(case):
    style, text = LOOKALIKES[case]
    assert parse(style, text, tool_names=NAMES) == (text, [])
    assert _parse_in_pieces(style, text)[:2] == (text, [])


def test_a_finished_call_has_the_shape_of_openai():
    _, text, _, _ = ANSWERS["hermes"]
    _, calls = parse(ToolStyle.HERMES, text, tool_names=NAMES, new_id=lambda: "call_1")
    assert calls == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": OSLO}}
    ]


def test_deltas_open_each_call_once_and_then_only_add_arguments():
    ids = (f"call_{n}" for n in itertools.count())
    text = (
        '[TOOL_CALLS][{"name": "weather", "arguments": {"a": 1}},'
        ' {"name": "weather", "arguments": {}}]'
    )
    _, _, deltas = _parse_in_pieces(ToolStyle.MISTRAL, [text], new_id=lambda: next(ids))

    def opening(index):
        function = {"name": "weather", "arguments": ""}
        return {"index": index, "id": f"call_{index}", "type": "function", "function": function}

    assert deltas == [
        {"tool_calls": [opening(0)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {"tool_calls": [opening(1)]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_content_and_arguments_stream_as_soon_as_they_are_certain():
    parser = ToolParser(ToolStyle.HERMES, tool_names=NAMES, new_id=lambda: "call_1")
    assert parser.feed("Hello <") == [{"content": "Hello"}]
    assert parser.feed("b> <tool_") == [{"content": " <b>"}]
    assert parser.feed('call>{"name": "weather", "arguments":') == []
    opening, fragment = parser.feed(' {"city": "Os')
    assert opening["tool_calls"][0]["function"]["name"] == "weather"
    assert fragment["tool_calls"] == [{"index": 0, "function": {"arguments": '{"city": "Os'}}]
    assert parser.called
    assert parser.feed('lo"}}') == [
        {"tool_calls": [{"index": 0, "function": {"arguments": 'lo"}'}}]}
    ]
    assert parser.feed("\n</tool_call>\n") == []
    assert parser.end() == []


def test_a_call_cut_off_in_its_arguments_stays_unfinished():
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Os'
    content, calls = parse(ToolStyle.HERMES, text, tool_names=NAMES)
    assert (content, _called(calls)) == (None, [("weather", '{"city": "Os')])


def test_without_parallel_calls_only_the_first_is_kept():
    style, text, content, called = ANSWERS["hermes twice, and text after"]
    found_content, calls = parse(style, text, tool_names=NAMES, parallel=False)
    assert (found_content, _called(calls)) == (content, called[:1])


def test_call_ids_are_fresh_and_of_openais_form():
    ids = {new_call_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(i.startswith("call_") and len(i) == 29 and i[5:].isalnum() for i in ids)


def test_every_style_lists_the_marks_that_decoders_would_drop():
    assert set(SPECIAL_MARKERS) == set(ToolStyle)
    assert "[TOOL_CALLS]" in SPECIAL_MARKERS[ToolStyle.MISTRAL]
    assert "<|python_tag|>" in SPECIAL_MARKERS[ToolStyle.LLAMA]


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "weather"),
        *('{"name": "weather", "arguments": {"a": "\\"}"}}', '{"name": "time.now", "parameters"'),
        *(": {", "}", "{", "[", "]", ",", ";", '"', "\\", " ", "\n", "<", "text", "ø"),
    ]
)


@given(style=st.sampled_from(ToolStyle), parts=st.lists(FRAGMENTS, max_size=14), data=st.data())
def test_any_split_gives_the_same_content_and_calls(style, parts, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    whole, split = _parse_in_pieces(style, [text]), _parse_in_pieces(style, pieces)
    assert (split[0], _called(split[1])) == (whole[0], _called(whole[1]))
    assert [
        call["index"] for d in split[2] for call in d.get("tool_calls", ()) if "id" in call
    ] == (list(range(len(split[1]))))


@given(
    style=st.sampled_from(ToolStyle), text=st.text(alphabet=st.characters(exclude_characters="{[<"))
)
def test_text_without_marks_comes_through_unchanged(style, text):
    assert parse(style, text, tool_names=NAMES) == (text or None, [])


@given(style=st.sampled_from(ToolStyle), parts=st.lists(FRAGMENTS, max_size=14))
def test_an_answer_without_a_call_is_content_to_the_last_character(style, parts):
    text = "".join(parts)
    content, calls = parse(style, text, tool_names=[])
    assert (content, calls) == (text or None, [])
