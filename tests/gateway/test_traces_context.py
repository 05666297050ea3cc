"""Which trace contexts are valid, by the W3C's Trace Context, §3.2 and §3.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.context import TraceContext, parse

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def parsed(*parents: str, states: tuple[str, ...] = ()) -> TraceContext | None:
    headers = [(b"traceparent", one.encode("latin-1")) for one in parents]
    headers += [(b"tracestate", one.encode("latin-1")) for one in states]
    return parse([(b"host", b"h"), *headers])


def state(*states: str) -> str:
    context = parsed(PARENT, states=states)
    assert context is not None
    return context.state


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_a_valid_context_is_passed_on_as_it_came(flags):
    context = parsed(f"00-{TRACE}-{SPAN}-{flags}", states=("a=1,b=2",))
    assert context is not None
    assert context.is_sampled == (flags in ("01", "03"))
    assert context.headers() == (
        ("traceparent", f"00-{TRACE}-{SPAN}-{flags}"),
        ("tracestate", "a=1,b=2"),
    )


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-1x",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\x0b",
        f"00-{TRACE}-{SPAN}-0\xb2",
    ],
)
def test_an_invalid_context_is_ignored(parent):
    assert parsed(parent, states=("a=1",)) is None


def test_two_contexts_are_none():
    assert parsed(PARENT, PARENT) is None


def test_without_a_parent_a_state_is_nothing():
    assert parsed(states=("a=1",)) is None


@pytest.mark.parametrize("more", ["", "-", "-what-the-future-has-to-say"])
def test_of_a_later_version_the_known_fields_are_read(more):
    context = parsed(f"cc-{TRACE}-{SPAN}-09{more}")
    assert context is not None
    assert context.headers() == (("traceparent", PARENT),)


@pytest.mark.parametrize("more", [".", "x", "0"])
def test_a_later_version_goes_on_with_a_dash(more):
    assert parsed(f"01-{TRACE}-{SPAN}-01{more}") is None


def test_white_space_around_it_is_none_of_it():
    assert parsed(f" \t{PARENT} ") is not None


@pytest.mark.parametrize(
    ("given_states", "passed"),
    [
        (("a=1,b=2",), "a=1,b=2"),
        (("a=1", "b=2"), "a=1,b=2"),
        (("a=1, \t b=2 ,",), "a=1,b=2"),
        (("a=1,,b=2",), "a=1,b=2"),
        (("",), ""),
        (("a=1", "", "b=2"), "a=1,b=2"),
        (("t61rcwkgmze@vendor=1",), "t61rcwkgmze@vendor=1"),
        (("a*/_-9=x y!~",), "a*/_-9=x y!~"),
        ((f"{'k' * 256}=1",), f"{'k' * 256}=1"),
        ((f"k={'v' * 256}",), f"k={'v' * 256}"),
    ],
)
def test_a_valid_state_is_passed_on(given_states, passed):
    assert state(*given_states) == passed


@pytest.mark.parametrize(
    "invalid",
    [
        "a",
        "=1",
        "a=",
        "A=1",
        "a b=1",
        "a@=1",
        "@a=1",
        "a@b@c=1",
        "a=1=2",
        "a=1,a=2",
        "a=\x7f",
        "a=\xe9",
        f"{'k' * 257}=1",
        f"k={'v' * 257}",
        ",".join(f"k{number}=1" for number in range(33)),
    ],
)
def test_an_invalid_state_is_left_out_and_its_trace_goes_on(invalid):
    context = parsed(PARENT, states=("z=1", invalid))
    assert context is not None
    assert context.headers() == (("traceparent", PARENT),)


def test_of_a_long_state_long_members_are_left_out_first():
    long = f"long={'v' * 200}"
    short = [f"k{number:02}={'v' * 20}" for number in range(16)]
    assert state(",".join([long, *short])) == ",".join(short)


def test_of_a_long_state_the_last_members_are_left_out():
    members = [f"k{number:02}={'v' * 96}" for number in range(10)]
    assert state(",".join(members)) == ",".join(members[:5])


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate"]), st.binary())))
def test_no_header_is_too_odd(headers):
    parse(headers)
