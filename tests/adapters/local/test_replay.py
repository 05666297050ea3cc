"""The memory of answers is bounded, and its keys are paths and payloads."""

from __future__ import annotations

from adapters.local.registry import Whole
from adapters.local.replay import Replay, ReplayLimits, key


def test_the_answer_not_asked_for_longest_goes_first() -> None:
    replay = Replay(ReplayLimits(answers=2))
    replay.put(b"a", Whole(body=b"1"))
    replay.put(b"b", Whole(body=b"2"))
    replay.get(b"a")
    replay.put(b"c", Whole(body=b"3"))

    assert [bool(replay.get(name)) for name in (b"a", b"b", b"c")] == [True, False, True]


def test_the_size_of_what_is_kept_is_bounded() -> None:
    replay = Replay(ReplayLimits(size_bytes=10))
    replay.put(b"a", Whole(body=b"123456"))
    replay.put(b"a", Whole(body=b"654321"))
    replay.put(b"b", Whole(body=b"1234"))
    replay.put(b"c", Whole(body=b"1"))
    replay.put(b"d", Whole(body=b"x" * 11))

    assert [bool(replay.get(name)) for name in (b"a", b"b", b"c", b"d")] == [
        False,
        True,
        True,
        False,
    ]


def test_a_key_is_path_and_payload_without_options() -> None:
    one = key("/", b'{"inputs": "x", "parameters": {"seed": 1, "top_k": 2}}')

    assert one == key("/", b'{"parameters":{"top_k":2,"seed":1},"inputs":"x","options":{}}')
    assert one != key("/generate", b'{"inputs":"x","parameters":{"seed":1,"top_k":2}}')
    assert one != key("/", b'{"inputs":"x","parameters":{"seed":2,"top_k":2}}')
    assert key("/", b"\xff") != key("/", b"\xfe")
