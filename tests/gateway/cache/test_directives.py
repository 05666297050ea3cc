"""What clients say about the cache, by the sections of RFC 9111 and RFC 9110."""

from __future__ import annotations

import pytest

from gateway.cache.directives import MOST_AGE_SECONDS, NO_DIRECTIVES, Directives


def cache_control(text: str) -> Directives:
    return Directives.parse(text, "", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RFC 9111 §5.2.1.4
        ("no-cache", Directives(reads=False)),
        # §5.2.1.5
        ("no-store", Directives(bypass=True)),
        # §5.2.1.7
        ("only-if-cached", Directives(only_if_cached=True)),
        # §5.2.1.1
        ("max-age=60", Directives(max_age_seconds=60)),
        ("max-age=0", Directives(max_age_seconds=0)),
        ("max-age=007", Directives(max_age_seconds=7)),
        # §5.2: "recipients ought to accept both forms", token and quoted-string
        ('max-age="60"', Directives(max_age_seconds=60)),
        (r'max-age="\6\0"', Directives(max_age_seconds=60)),
        # §5.2: "case-insensitive"
        ("No-CACHE, Max-Age=5", Directives(reads=False, max_age_seconds=5)),
        # RFC 9110 §5.6.1.2: empty elements of a list, space around them
        (" ,no-store ,\t, max-age=1,", Directives(bypass=True, max_age_seconds=1)),
        ("max-age = 5", Directives(max_age_seconds=5)),
        (
            "no-cache,no-store,only-if-cached",
            Directives(bypass=True, reads=False, only_if_cached=True),
        ),
        # RFC 9110 §5.3: several lines are one list
        ("max-age=9, only-if-cached", Directives(only_if_cached=True, max_age_seconds=9)),
        # §4.2.1: invalid freshness information is stale
        ("max-age", Directives(max_age_seconds=0)),
        ("max-age=", Directives(max_age_seconds=0)),
        ("max-age=-1", Directives(max_age_seconds=0)),
        ("max-age=1.5", Directives(max_age_seconds=0)),
        ("max-age=1 2", Directives(max_age_seconds=0)),
        ("max-age=٣", Directives(max_age_seconds=0)),
        ("max-age=²", Directives(max_age_seconds=0)),
        # §4.2.1: of two, the first
        ("max-age=3, max-age=60", Directives(max_age_seconds=3)),
        # §1.2.2: too large to be held
        ("max-age=2147483649", Directives(max_age_seconds=MOST_AGE_SECONDS)),
        ("max-age=" + "9" * 5000, Directives(max_age_seconds=MOST_AGE_SECONDS)),
        ("max-age=" + "0" * 5000 + "1", Directives(max_age_seconds=1)),
        # §5.2.3: unknown ones are ignored, whatever they hold
        ("no-transform, min-fresh=1, max-stale", Directives()),
        ('private="no-store, no-cache", x=1', Directives()),
        (r'x="a\", no-store", no-cache', Directives(reads=False)),
        ('x="no-store', Directives()),
        ('x="no-store\\', Directives()),
        ("x-no-store, no-storex", Directives()),
        ("x=no-store", Directives()),
        ("=no-store", Directives()),
        (",,,", Directives()),
        # an argument that no-cache has in answers only: still the safe side
        ('no-cache="set-cookie"', Directives(reads=False)),
    ],
)
def test_cache_control(text: str, expected: Directives) -> None:
    assert cache_control(text) == expected


@pytest.mark.parametrize("text", ["0", "false", " False ", "FALSE"])
def test_x_use_cache_passes_by_every_cache_on_the_way(text: str) -> None:
    assert Directives.parse("", text, "") == Directives(bypass=True, is_forwarded=True)


@pytest.mark.parametrize("text", ["1", "true", "", "no", "00"])
def test_x_use_cache_that_says_nothing_changes_nothing(text: str) -> None:
    assert Directives.parse("", text, "") == Directives()


def test_no_store_is_between_the_client_and_the_gateway() -> None:
    assert not cache_control("no-store").is_forwarded


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        # RFC 9110 §13.1.2, §8.8.3
        ('"a"', ('"a"',)),
        ('W/"a"', ('"a"',)),
        ('"a", W/"b" ,"c,d"', ('"a"', '"b"', '"c,d"')),
        ('""', ('""',)),
        ('"é"', ('"é"',)),
        ("*", ("*",)),
        (" * ", ("*",)),
        ('"*"', ('"*"',)),
        ("a", ()),
        ('"a', ()),
        ('"a b"', ()),
    ],
)
def test_entity_tags(text: str, tags: tuple[str, ...]) -> None:
    assert Directives.parse("", "", text).if_none_match == tags


@pytest.mark.parametrize("etag", ['"a"', 'W/"a"'])
@pytest.mark.parametrize("given", ['"a"', 'W/"a"', '"b", W/"a"', "*"])
def test_tags_are_compared_weakly(given: str, etag: str) -> None:
    assert Directives.parse("", "", given).matches(etag)


@pytest.mark.parametrize("given", ['"b"', '"A"', '"*"', "a", "no-cache", ""])
def test_another_tag_does_not_match(given: str) -> None:
    assert not Directives.parse("", "", given).matches('"a"')


def test_who_says_nothing_gets_the_one_object_that_says_so() -> None:
    assert Directives.parse("", "", "") is NO_DIRECTIVES
    assert Directives() == NO_DIRECTIVES


def test_a_long_header_takes_no_longer_than_its_length() -> None:
    for text in ('"' * 8000, "a=" * 8000, 'a="' + "\\" * 8000, ", " * 8000, " \t" * 8000 + "a"):
        assert cache_control(text) == Directives()
