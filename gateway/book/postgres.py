"""Connecting to a book on a PostgreSQL server, with bounded patience.

pg8000's own `timeout` covers connecting and every later read alike, and its `ssl_context` falls
back to plain text only where none is given. So the socket is made here.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from pg8000.dbapi import Connection, InterfaceError
from sqlalchemy import Engine, NullPool, create_engine

from gateway.book.address import PostgresAddress

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
_ABANDONED_SECONDS = 30.0  # a process that hangs in a transaction holds locks that others wait for
_NETWORK_SECONDS = 5.0  # by when an answer must have arrived once the server has given up
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)  # PostgreSQL, "Message Formats"


class PostgresConnection(Connection):  # type: ignore[misc]  # pg8000 has no types
    """A connection that can be cut from another thread, and closed when the server is gone."""

    def __init__(self, address: PostgresAddress, wire: socket.socket) -> None:
        self._wire = wire
        super().__init__(
            address.user,
            host=address.host,
            database=address.database,
            password=address.password,
            application_name="dragoman",
            sock=wire,
            ssl_context=False,  # `wire` is encrypted already, where it is to be
        )

    def interrupt(self) -> None:
        """Make whoever waits for the server fail at once."""
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say good-bye, if there is still somebody to hear it."""
        file = self._sock  # made of `_wire`, which stays open as long as it does
        try:
            with suppress(InterfaceError, OSError):
                super().close()
        finally:
            self._wire.close()
            if file:
                with suppress(OSError):
                    file.close()


def make_engine(address: PostgresAddress, *, patient: bool) -> Engine:
    """Return what makes connections; those of a `patient` one wait for as long as it takes."""
    return create_engine(
        "postgresql+pg8000://",
        creator=lambda: _connect(address, patient=patient),
        # Transactions begin and end by `connection.transaction` alone.
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
        hide_parameters=True,
    )


def _connect(address: PostgresAddress, *, patient: bool) -> PostgresConnection:
    wire = _dial(address)
    try:
        connection = PostgresConnection(address, wire)
        _limit(connection, patient=patient)
    except BaseException:
        wire.close()
        raise
    wire.settimeout(None if patient else STATEMENT_SECONDS + _NETWORK_SECONDS)
    return connection


def _limit(connection: PostgresConnection, *, patient: bool) -> None:
    # Not as start-up parameters: pgbouncer refuses those that it does not know.
    limits = {
        "statement_timeout": STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": _ABANDONED_SECONDS,
    }
    for name, seconds in limits.items():
        connection.execute_simple(f"SET {name} = {0 if patient else round(seconds * 1000)}")


def _dial(address: PostgresAddress) -> socket.socket:
    """Return a connected socket, encrypted as `ssl_mode` asks for."""
    if address.host.startswith("/"):
        return _dial_unix(f"{address.host}/.s.PGSQL.{address.port}")
    wire = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
    try:
        _keep_alive(wire)
        return wire if address.ssl_mode == "disable" else _encrypted(wire, address)
    except BaseException:
        wire.close()
        raise


def _dial_unix(path: str) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX)
    try:
        wire.settimeout(CONNECT_SECONDS)
        wire.connect(path)
    except BaseException:
        wire.close()
        raise
    return wire


def _keep_alive(wire: socket.socket) -> None:
    """Notice within a minute that the other machine is gone, also while waiting for it."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if option := getattr(socket, name, None):
            wire.setsockopt(socket.IPPROTO_TCP, option, value)


def _encrypted(wire: socket.socket, address: PostgresAddress) -> socket.socket:
    wire.sendall(_SSL_REQUEST)
    answer = wire.recv(1)
    if answer == b"S":
        return _ssl_context(address).wrap_socket(wire, server_hostname=address.host)
    if answer != b"N":
        raise OSError("the server does not speak PostgreSQL's protocol")
    if address.ssl_mode != "prefer":
        raise OSError(f"the server refuses TLS, but sslmode is {address.ssl_mode!r}")
    return wire


def _ssl_context(address: PostgresAddress) -> ssl.SSLContext:
    if address.ssl_mode == "verify-full":
        return ssl.create_default_context(cafile=address.ssl_root_cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
