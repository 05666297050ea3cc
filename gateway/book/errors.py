"""What the book cannot do. No message holds a digest or a password.

BookError
  BookUnavailable      the database cannot be read or written now: locked, full, gone
  UnsupportedBook      the URL names another database, or a newer version wrote the book
  UnknownKey           no key has this id
  UnknownTeam          no team has this name
  TeamExists           a team has this name already
  BadEntries           the database refuses some of the ledger's entries for what they hold
"""

from __future__ import annotations

from collections.abc import Sequence


class BookError(Exception):
    """Anything the book cannot do. The message is for the operator."""


class BookUnavailable(BookError):
    """The database cannot be used now. Nothing was changed; later it may work again.

    One exception: when the connection breaks during a commit, nobody knows whether it was made.
    """


class UnsupportedBook(BookError):
    """The book is of a kind that this version cannot use."""


class UnknownKey(BookError):
    """No key has this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no key has the id {key_id!r}")


class UnknownTeam(BookError):
    """No team has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no team has the name {name!r}")


class TeamExists(BookError):
    """A team has this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a team has the name {name!r} already")


class BadEntries(BookError):
    """`indexes` are the entries that can never be stored. Without them the others can be."""

    def __init__(self, indexes: Sequence[int], reason: str) -> None:
        super().__init__(f"{len(indexes)} of the entries cannot be stored: {reason}")
        self.indexes = tuple(indexes)
