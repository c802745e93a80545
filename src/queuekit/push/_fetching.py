# SPDX-License-Identifier: Apache-2.0
"""Fetches one small document from an address that was configured, within limits."""

from __future__ import annotations

import io
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from queuekit._values.clock import Clock
from queuekit._values.errors import UsageError
from queuekit._values.hosts import is_loopback

LIMIT_S: Final = 5.0
_LARGEST: Final = 256 * 1024
_OK: Final = 200


class FetchError(Exception):
    """The document could not be had; the message says why, and holds nothing of it."""


def fetch(url: str, clock: Clock) -> bytes:
    """The document behind a URL that `checked_url` let pass. Redirects are not followed, and no proxy is used.

    Raises:
        FetchError: No answer within 5 s in all, one other than 200, or more than 256 KiB.
    """
    parts = urlsplit(url)
    deadline = clock.monotonic() + LIMIT_S
    connection = _connection(parts)
    wire = _Timed(clock, deadline)
    try:
        connection.connect()
        wire.take(connection)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        if answer.status != _OK:
            msg = f"the answer is {answer.status}"
            raise FetchError(msg)
        body = answer.read(_LARGEST + 1)
    except (OSError, HTTPException) as error:
        msg = f"{type(error).__name__}"
        raise FetchError(msg) from error
    finally:
        connection.close()
        wire.end()
    if len(body) > _LARGEST:
        msg = f"the answer is longer than {_LARGEST} bytes"
        raise FetchError(msg)
    return body


def checked_url(name: str, url: object) -> str:
    """A URL that may be trusted: https, or this host.

    Raises:
        UsageError: It is none of these, or has a user, a password or a fragment.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        usable = bool(parts.hostname) and parts.username is None and not parts.fragment and parts.port != 0
    except ValueError:
        usable, parts = False, SplitResult("", "", "", "", "")
    plain = isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not (usable and plain and safe):
        msg = f"{name} must be an https URL, or one of this host as in http://127.0.0.1:8080; others can be forged"
        raise UsageError(msg)
    return str(url)


def _connection(parts: SplitResult) -> HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "https":
        return HTTPSConnection(host, parts.port, timeout=LIMIT_S, context=ssl.create_default_context())
    return HTTPConnection(host, parts.port, timeout=LIMIT_S)


class _Timed:
    """Stands in for a connection's socket: reads end with a deadline, however little each of them brings."""

    def __init__(self, clock: Clock, deadline: float) -> None:
        self._clock, self._deadline = clock, deadline
        self._wire: socket.socket | None = None

    def take(self, connection: HTTPConnection) -> None:
        """Stand between a connection and its socket."""
        wire: Any = connection.sock
        connection.sock = self
        self._wire = wire

    def sendall(self, data: bytes) -> None:
        """As a socket does."""
        if self._wire is not None:
            self._wire.sendall(data)

    def recv_into(self, buffer: Any) -> int:
        """As a socket does.

        Raises:
            TimeoutError: The deadline is over.
        """
        left_s = self._deadline - self._clock.monotonic()
        if left_s <= 0 or self._wire is None:
            raise TimeoutError
        self._wire.settimeout(left_s)
        return self._wire.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(_TimedReader(self))

    def close(self) -> None:
        """Nothing: the answer is still to be read when its connection is done with; see `end`."""

    def end(self) -> None:
        """Close the socket."""
        if self._wire is not None:
            self._wire.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, wire: _Timed) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(buffer)
