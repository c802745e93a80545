# SPDX-License-Identifier: Apache-2.0
"""Connections to one server: made when needed, used by one thread at a time, given up at the first doubt."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis import connection as redis_connections
from redis import exceptions

from queuekit.backend import Clock
from queuekit.backends.redis._errors import NotConnectedError, NotPrimaryError, UnreadableFileError
from queuekit.backends.redis._options import Address
from queuekit.backends.redis._topology import is_primary

_pack: Any = hiredis.pack_command


_LEAST_S = 0.001
"""The shortest time limit of a step of connecting, where the steps before took nearly all of it."""


class Line:
    """One connection. It is used by one thread at a time.

    Args:
        lines: Where it belongs.
        address: The server.
        clock: Measures how long connecting takes.
    """

    __slots__ = ("_address", "_clock", "_connection", "_poll", "_timeout_s", "_until", "epoch", "lines")

    def __init__(self, lines: Lines, address: Address, clock: Clock) -> None:
        self.lines = lines
        self.epoch = lines.epoch
        self._address = address
        self._clock = clock
        self._until = 0.0
        self._connection = _make(address, self._log_in)
        self._timeout_s = address.answer_s
        self._poll = select.poll()

    def connect(self, limit_s: float, *, to_primary: bool) -> None:
        """Connect, and log in.

        Args:
            limit_s: For all of it.
            to_primary: Whether to ask if the server is a primary, and to refuse it where it is not.

        Raises:
            NotConnectedError: It could not be done.
        """
        address, connection = self._address, self._connection
        if address.ca_file and not os.access(address.ca_file, os.R_OK):
            msg = f"the file {address.ca_file!r} of the option 'ca_file' cannot be read"
            raise NotConnectedError(msg) from UnreadableFileError(msg)
        limit_s = max(limit_s, _LEAST_S)  # none at all would mean not to wait, which no connection survives
        self._until = self._clock.monotonic() + limit_s
        connection.socket_connect_timeout = limit_s / _places(address.host)
        connection.socket_timeout = min(limit_s, address.answer_s)
        try:
            connection.connect()
            if to_primary:
                self.ask("ROLE")
                _check_role(self.answer(), address)
        except (exceptions.RedisError, NotPrimaryError, OSError) as error:
            connection.disconnect()
            raise NotConnectedError(str(error)) from error
        connection.socket_timeout = address.answer_s
        self._socket.settimeout(address.answer_s)
        self._poll.register(self._socket, select.POLLIN)

    def _log_in(self, connection: Any) -> None:
        left_s = self._until - self._clock.monotonic()
        self._socket.settimeout(min(max(left_s, _LEAST_S), self._address.answer_s))
        connection.on_connect()

    def is_alive(self) -> bool:
        """Whether the server still holds the other end; it says nothing unasked but that it closes."""
        return not self._poll.poll(0)

    def call(self, timeout_s: float, *command: Any) -> Any:
        """Send a command, and wait for its answer.

        Raises:
            RedisError: The server's error, or what became of the connection, which is closed then.
        """
        self._limit(timeout_s)
        self.ask(*command)
        return self.answer()

    def call_together(self, timeout_s: float, commands: Sequence[tuple[Any, ...]], counts: int = 0) -> Any:
        """Send commands at once, wait for all answers, and give the one that counts.

        Args:
            timeout_s: For each answer.
            commands: Name and arguments of each.
            counts: Which of them it is.

        Raises:
            RedisError: As for `call`; an answer that is an error matters only where it is the one that counts.
        """
        self._limit(timeout_s)
        self._connection.send_packed_command((b"".join(map(_pack, commands)),))
        for _ in commands[:counts]:
            self._skip()
        try:
            return self.answer()
        finally:
            for _ in commands[counts + 1 :]:
                if self.is_open:
                    self._skip()

    def _skip(self) -> None:
        try:
            self.answer()
        except exceptions.ResponseError:
            return  # what it was about does not matter

    def _limit(self, timeout_s: float) -> None:
        if timeout_s != self._timeout_s:
            self._timeout_s = timeout_s
            self._socket.settimeout(timeout_s)

    def ask(self, *command: Any) -> None:
        """Send a command.

        Raises:
            RedisError: What became of the connection, which is closed then.
        """
        # Straight to hiredis: redis-py's own packing looks at each argument twice.
        self._connection.send_packed_command((_pack(command),))

    def answer(self) -> Any:
        """Wait for the answer to what was asked.

        Raises:
            RedisError: As for `call`.
        """
        return self._connection.read_response()

    def fileno(self) -> int:
        """The socket's descriptor."""
        number: int = self._socket.fileno()
        return number

    @property
    def is_open(self) -> bool:
        """Whether it can be used again."""
        return self._socket is not None

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()

    @property
    def _socket(self) -> Any:
        # redis-py has no public name for it, and no other way to wait for an answer only so long.
        return self._connection._sock  # noqa: SLF001


def _make(address: Address, log_in: Callable[[Any], None]) -> Any:
    # One attempt, and no time limit of the client's own choice: redis-py 8 changed it (and 5 had none).
    kinds: Any = redis_connections
    common: dict[str, Any] = {
        "db": address.database,
        "username": address.user,
        "password": address.password,
        "socket_timeout": address.answer_s,
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,
        "redis_connect_func": log_in,
    }
    if address.socket:
        return kinds.UnixDomainSocketConnection(path=address.socket, **common)
    common |= {"host": address.host, "port": address.port, "socket_keepalive": True}
    common["socket_connect_timeout"] = address.connect_s
    if address.tls:
        # Before version 6, redis-py did not look at the host's name unless it was told to.
        checks = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        return kinds.SSLConnection(ssl_ca_certs=address.ca_file or None, **checks, **common)
    return kinds.Connection(**common)


def _places(host: str) -> int:
    """How many addresses a name has; redis-py tries them in turn, each with the whole time limit."""
    try:
        return max(1, len(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))) if host else 1
    except OSError:
        return 1  # connecting says what is wrong


def _check_role(answer: Any, address: Address) -> None:
    if not is_primary(answer):
        msg = f"{address.host}:{address.port} is a replica"
        raise NotPrimaryError(msg)


class Lines:
    """The connections to one server that nobody uses now, and new ones.

    Args:
        address: The server.
        clock: See `Line`.
        primary: Whether the server must be a primary when a connection is made.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, address: Address, clock: Clock, *, primary: bool = False) -> None:
        self.address = address
        self.epoch = 0
        """Raised when all connections that were made before must not be used again."""
        self._clock = clock
        self._primary = primary
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._closed = False

    def take(self, connect_s: float | None = None) -> Line:
        """A connection for one thread, to be given back.

        Args:
            connect_s: How long connecting may take; by default as the address says.

        Raises:
            NotConnectedError: None could be made.
        """
        if os.getpid() != self._pid:
            self._after_fork()
        while True:
            with self._lock:
                line = self._idle.pop() if self._idle else None
            if line is None:
                line = Line(self, self.address, self._clock)
                line.connect(self.address.connect_s if connect_s is None else connect_s, to_primary=self._primary)
                return line
            if line.is_alive():
                return line
            line.close()

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next call, unless it was closed or belongs to an epoch that is over."""
        if not line.is_open:
            return
        with self._lock:
            if not self._closed and line.epoch == self.epoch:
                self._idle.append(line)
                return
        line.close()

    def renew(self) -> None:
        """Close what is idle now, and all else that was made before when it is given back."""
        with self._lock:
            self.epoch += 1
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def close(self) -> None:
        """As `renew`, for good."""
        with self._lock:
            self._closed = True
        self.renew()

    def _after_fork(self) -> None:
        # The parent's connections are the parent's; it may also have held the lock.
        self._lock = threading.Lock()
        self._idle = []
        self._pid = os.getpid()
