# SPDX-License-Identifier: Apache-2.0
"""Connections to one server: made when needed, used by one thread at a time, given up at the first doubt."""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import connection as redis_connections
from redis import exceptions

from queuekit.backends.redis._errors import NotConnectedError
from queuekit.backends.redis._options import Address
from queuekit.backends.redis._scripts import Script

_pack: Any = hiredis.pack_command
_LEAST_S = 0.001  # none at all would mean not to wait, which no connection survives


class Line:
    """One connection. It is used by one thread at a time.

    Args:
        address: Where to.
        within_s: Longest time for connecting, and for each answer of the greeting, where the address allows more.
    """

    __slots__ = ("_connection", "_poll", "_timeout_s")

    def __init__(self, address: Address, within_s: float = math.inf) -> None:
        self._timeout_s = max(_LEAST_S, min(within_s, address.answer_s))
        self._connection = _make(address, self._timeout_s, max(_LEAST_S, min(within_s, address.connect_s)))
        self._poll = select.poll()

    def connect(self) -> None:
        """Connect, and log in.

        Raises:
            NotConnectedError: It could not be done.
        """
        try:
            self._connection.connect()
        except (exceptions.RedisError, OSError) as error:
            self._connection.disconnect()
            raise NotConnectedError(str(error)) from error
        self._poll.register(self._socket, select.POLLIN)

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

    def call_together(self, timeout_s: float, commands: Sequence[tuple[Any, ...]]) -> Any:
        """Send commands at once, wait for all answers, and give the first.

        Raises:
            RedisError: As for `call`; an answer that is an error counts only where it is the first.
        """
        self._limit(timeout_s)
        self._connection.send_packed_command((b"".join(map(_pack, commands)),))
        try:
            return self.answer()
        finally:
            for _ in commands[1:]:
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


def _make(address: Address, answer_s: float, connect_s: float) -> Any:
    # One attempt, and no time limit of the client's own choice: redis-py 8 changed it (and 5 had none).
    kinds: Any = redis_connections
    common: dict[str, Any] = {
        "db": address.database,
        "username": address.user,
        "password": address.password,
        "socket_timeout": answer_s,
        "socket_connect_timeout": connect_s,
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,
    }
    if address.socket:
        del common["socket_connect_timeout"]
        return kinds.UnixDomainSocketConnection(path=address.socket, **common)
    common |= {"host": address.host, "port": address.port, "socket_keepalive": True}
    if address.tls:
        return kinds.SSLConnection(ssl_ca_certs=address.ca_file or None, **common)
    return kinds.Connection(**common)


class Connections:
    """The connections to one server, shared by the backends of one owner.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._closed = False

    def run(self, script: Script, keys: tuple[str, ...], *args: Any, timeout_s: float) -> Any:
        """Run a script in the server, which is given its text if it does not have it.

        Raises:
            RedisError: See `Line.call`.
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return self.call(*command, timeout_s=timeout_s)
        except exceptions.NoScriptError:
            # It proves that nothing ran.
            self.call("SCRIPT", "LOAD", script.source, timeout_s=timeout_s)
            return self.call(*command, timeout_s=timeout_s)

    def call(self, *command: Any, timeout_s: float) -> Any:
        """Run a command in the server.

        Raises:
            RedisError: See `Line.call`.
        """
        line = self.take(timeout_s)
        try:
            return line.call(min(timeout_s, self._address.answer_s), *command)
        finally:
            self.give_back(line)

    def call_together(self, *commands: tuple[Any, ...], timeout_s: float) -> Any:
        """Run commands in the server, of which only the first matters; its answer.

        Raises:
            RedisError: See `Line.call_together`.
        """
        line = self.take(timeout_s)
        try:
            return line.call_together(min(timeout_s, self._address.answer_s), commands)
        finally:
            self.give_back(line)

    def take(self, within_s: float = math.inf) -> Line:
        """A connection for one thread, to be given back.

        Args:
            within_s: See `Line`.

        Raises:
            NotConnectedError: None could be made.
        """
        if os.getpid() != self._pid:
            self._after_fork()
        while True:
            with self._lock:
                line = self._idle.pop() if self._idle else None
            if line is None:
                line = Line(self._address, within_s)
                line.connect()
                return line
            if line.is_alive():
                return line
            line.close()

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next call, unless it was closed."""
        if not line.is_open:
            return
        with self._lock:
            if not self._closed:
                self._idle.append(line)
                return
        line.close()

    def close(self) -> None:
        """Close what is idle now, and all else when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _after_fork(self) -> None:
        # The parent's connections are the parent's; it may also have held the lock.
        self._lock = threading.Lock()
        self._idle = []
        self._pid = os.getpid()
