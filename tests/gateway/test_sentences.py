"""Long text in sentences: cut where a reader would pause, and never a character lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sentences import pack_sentences, split_sentences

TEXTS = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(".!?… \n\t,;:\"')]。！？、」“”0123456789eéDr\u0301\u200d"),
    ),
    max_size=300,
)


@given(text=TEXTS, longest=st.integers(1, 80))
def test_no_character_is_lost_or_moved_and_no_piece_is_too_long(text, longest):
    pieces = split_sentences(text, longest)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces)


@given(text=TEXTS, longest=st.integers(1, 80))
def test_packed_pieces_are_as_few_as_fit(text, longest):
    packed = pack_sentences(split_sentences(text, longest), longest)
    assert "".join(packed) == text
    assert all(0 < len(piece) <= longest for piece in packed)
    assert all(len(a) + len(b) > longest for a, b in pairwise(packed))


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello there. ", "How are you? ", "Fine!"],
        ["Dr. Smith paid Mr. Jones. ", "He left."],
        ["It costs $3.50 at 10.30 a.m. today. ", "Cheap."],
        ["Fruit, e.g. apples, is cheap. ", "Buy it."],
        ["J. R. R. Tolkien wrote it. ", "I read it."],
        ["The U.S. Army came. ", "It went."],
        ["No. 5 is alive. ", "No. 6 is not."],
        ["Well... and then... nothing. ", "Wait… ", "What?!"],
        ['"Really?" ', "He nodded. ", "(Yes.) ", "“Good.” ", "Bye."],
        ["First line\n", "Second line\n\n", "Third. ", "Fourth"],
        ["今日は。", "元気ですか？", "「はい。」", "と言った。"],
        ["他来了！", "她走了。", "完"],
        ["See example.com or v1.2.3 for more. ", "Bye."],
    ],
)
def test_sentences_end_where_a_reader_would_stop(sentences):
    assert split_sentences("".join(sentences), 100) == sentences


def test_a_long_sentence_is_cut_at_a_pause_else_between_words_else_anywhere():
    assert split_sentences("one two three, four five six", 20) == [
        "one two three, ",
        "four five six",
    ]
    assert split_sentences("one two three four five", 12) == ["one two ", "three four ", "five"]
    assert split_sentences("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_a_cut_parts_no_letter_from_its_accent():
    assert split_sentences("abce\u0301f", 4) == ["abc", "e\u0301f"]


def test_sentences_are_packed_up_to_the_limit():
    assert pack_sentences(["One. ", "Two. ", "Three."], 10) == ["One. Two. ", "Three."]


def test_blank_lines_and_dots_at_the_beginning_belong_to_the_first_sentence():
    assert split_sentences("\n\nHello. Bye", 50) == ["\n\nHello. ", "Bye"]
    assert split_sentences("... Well. Bye", 50) == ["... Well. ", "Bye"]


def test_no_text_has_no_sentences():
    assert split_sentences("", 10) == []


@pytest.mark.parametrize("text", ["." * 200_000, "\n" * 200_000, '."' * 100_000, "a. " * 60_000])
def test_long_monotonous_text_takes_no_quadratic_time(text):
    assert "".join(split_sentences(text, 4096)) == text
