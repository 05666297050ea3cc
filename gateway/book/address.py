"""Where a book is: a data directory or a URL, read and checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.book.errors import UnsupportedBook

_POSTGRES_FORM = "postgresql://user:password@host:port/database"
_SSL_MODES = ("disable", "prefer", "require", "verify-full")


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """A file."""

    path: Path

    def __str__(self) -> str:
        return repr(str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """A database of a server. A `host` that begins with `/` is the directory of its socket.

    `ssl_mode` as libpq has it: `prefer` and `require` encrypt, only `verify-full` knows to whom.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    ssl_mode: str
    ssl_root_cert: str | None

    def __str__(self) -> str:
        return f"postgresql://{self.user}@{self.host}:{self.port}/{self.database}"


Address = SqliteAddress | PostgresAddress


def parse_address(where: Path | str, *, env: Mapping[str, str] = os.environ) -> Address:
    """Return the place that a data directory or a URL names.

    A URL without a password takes `PGPASSWORD`. Raises UnsupportedBook, never with the password.
    """
    if isinstance(where, Path) or "://" not in where:
        return SqliteAddress(Path(where).expanduser() / "book.sqlite3")
    url = urlsplit(where)
    if url.scheme == "sqlite" and not url.netloc and url.path:
        return SqliteAddress(Path(unquote(url.path)))
    if url.scheme in ("postgresql", "postgres"):
        return _postgres(url, env)
    raise UnsupportedBook(
        f"a book at {url.scheme}:// is not supported: expected sqlite:///absolute/path "
        f"or {_POSTGRES_FORM}"
    )


def _postgres(url: SplitResult, env: Mapping[str, str]) -> PostgresAddress:
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    try:
        # A password with a bare `/` or `#` ends up as the port, which the error would show.
        port = url.port or 5432
    except ValueError:
        raise UnsupportedBook(
            f"the book's URL is not {_POSTGRES_FORM} with a number as port "
            "(special characters in the password are written as %2F, %23 …)"
        ) from None
    host = options.pop("host", "") or url.hostname or "localhost"
    ssl_mode = options.pop("sslmode", "prefer")
    ssl_root_cert = options.pop("sslrootcert", None)
    if ssl_mode not in _SSL_MODES:
        raise UnsupportedBook(f"sslmode: expected one of {', '.join(_SSL_MODES)}, got {ssl_mode!r}")
    if options:
        raise UnsupportedBook(
            f"the book's URL has an unknown option {next(iter(options))!r}: "
            "known are host, sslmode and sslrootcert"
        )
    user = unquote(url.username or "") or "postgres"
    return PostgresAddress(
        host=host,
        port=port,
        database=unquote(url.path.lstrip("/")) or user,
        user=user,
        password=unquote(url.password or "") or env.get("PGPASSWORD", ""),
        ssl_mode=ssl_mode,
        ssl_root_cert=ssl_root_cert,
    )
