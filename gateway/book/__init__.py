"""The book: what must be kept. API keys, teams, who changed them, and the ledger of usage, in SQL.

SQLite, one file in the data directory, or PostgreSQL. Several processes (workers, the command
line) may have the same book open. A key's text never comes here, only its digest.
"""

from gateway.book.audit import AuditRecord
from gateway.book.book import Book
from gateway.book.changes import Changes
from gateway.book.connection import Row
from gateway.book.errors import (
    BadEntries,
    BookError,
    BookUnavailable,
    TeamExists,
    UnknownKey,
    UnknownTeam,
    UnsupportedBook,
)
from gateway.book.keys import FoundKey, KeyOptions, StoredKey
from gateway.book.teams import Team
from gateway.book.usage import GROUPS, Total, UsageFilter

__all__ = [
    "GROUPS",
    "AuditRecord",
    "BadEntries",
    "Book",
    "BookError",
    "BookUnavailable",
    "Changes",
    "FoundKey",
    "KeyOptions",
    "Row",
    "StoredKey",
    "Team",
    "TeamExists",
    "Total",
    "UnknownKey",
    "UnknownTeam",
    "UnsupportedBook",
    "UsageFilter",
]
