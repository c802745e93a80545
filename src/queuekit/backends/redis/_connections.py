# SPDX-License-Identifier: Apache-2.0
"""Calling the server of a queue, wherever that is now."""

from __future__ import annotations

import math
from typing import Any

from redis import exceptions

from queuekit.backend import Clock, SystemClock
from queuekit.backends.redis._errors import NotConnectedError, shakes
from queuekit.backends.redis._lines import Line, Lines
from queuekit.backends.redis._options import Target
from queuekit.backends.redis._scripts import Script
from queuekit.backends.redis._servers import Servers
from queuekit.backends.redis._topology import Node, redirect_of, slot_of

_DETOURS = 5
"""How often a call is made again, by which nothing is done twice: each answer proves that nothing ran."""

_Command = tuple[Any, ...]


class Connections:
    """The connections to all servers that one owner's backends use.

    Args:
        target: What the URL points to.
        clock: Measures how long connecting takes.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, target: Target, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._servers = Servers(target, self._clock)
        self._divided = target.form == "cluster"

    def for_key(self, key: str) -> Way:
        """The way to the server that has a key, and all others with the same part in braces."""
        return Way(self._servers, self._clock, slot_of(key) if self._divided else 0)

    def close(self) -> None:
        """Close what is idle now, and all else when it is given back."""
        self._servers.close()


class Way:
    """The way to the server that has certain keys.

    A cluster's redirections are followed, and a script that a server does not have is given to it: both prove that
    nothing ran. Whatever else fails is raised, and makes the next call look for the server anew.

    Args:
        servers: Finds it.
        clock: Measures what is left of a time limit.
        slot: Which part of a cluster the keys are in; without one it does not matter.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, servers: Servers, clock: Clock, slot: int) -> None:
        self._servers = servers
        self._clock = clock
        self._slot = slot
        self._answer_s = servers.answer_s
        self._known: tuple[int, Lines] | None = None

    def run(self, script: Script, keys: tuple[str, ...], *args: Any, timeout_s: float) -> Any:
        """Run a script in the server, which is given its text if it does not have it.

        Raises:
            RedisError: See `Line.call`.
        """
        return self._call(("EVALSHA", script.sha, len(keys), *keys, *args), timeout_s, script)

    def call(self, *command: Any, timeout_s: float) -> Any:
        """Run a command in the server.

        Raises:
            RedisError: See `Line.call`.
        """
        return self._call(command, timeout_s, None)

    def _call(self, command: _Command, timeout_s: float, script: Script | None) -> Any:
        line = self.take(timeout_s)
        try:
            return line.call(min(timeout_s, self._answer_s), *command)
        except (exceptions.RedisError, OSError) as error:
            failed = error
        finally:
            self.give_back(line)
        return self._go_on(failed, line.lines, (command,), timeout_s, script)

    def call_together(self, *commands: _Command, timeout_s: float) -> Any:
        """Run commands in the server, of which only the first matters; its answer.

        Raises:
            RedisError: See `Line.call_together`.
        """
        line = self.take(timeout_s)
        try:
            return line.call_together(min(timeout_s, self._answer_s), commands)
        except (exceptions.RedisError, OSError) as error:
            failed = error
        finally:
            self.give_back(line)
        return self._go_on(failed, line.lines, commands, timeout_s)

    def take(self, within_s: float = math.inf) -> Line:
        """A connection for one thread, to be given back.

        Args:
            within_s: Longest time for finding the server and connecting to it, where the URL allows more.

        Raises:
            NotConnectedError: None could be made, or nobody knows to which server.
        """
        within_s = min(within_s, self._servers.connect_s)
        known = self._known
        if known is not None and known[0] == self._servers.generation:
            return self._connect(known[1], within_s)
        until = self._clock.monotonic() + within_s
        generation = self._servers.generation
        lines = self._servers.find(self._slot, until)
        self._known = (generation, lines)
        return self._connect(lines, max(0.0, until - self._clock.monotonic()))

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next call, unless it was closed."""
        line.lines.give_back(line)

    def is_current(self, line: Line) -> bool:
        """Whether a connection that was taken before still leads to where the keys are believed to be."""
        known = self._known
        return (
            known is not None
            and known[0] == self._servers.generation
            and known[1] is line.lines
            and line.epoch == line.lines.epoch
        )

    def judge(self, error: exceptions.RedisError, lines: Lines) -> None:
        """Learn from an error where the keys are now; if that cannot be, raise it.

        Raises:
            RedisError: The error.
        """
        redirect = redirect_of(error, _node(lines))
        if redirect is None or redirect.once or not self._servers.learn(redirect):
            self._doubt(error, lines)
            raise error

    def _connect(self, lines: Lines, limit_s: float) -> Line:
        try:
            return lines.take(limit_s)
        except NotConnectedError:
            self._servers.doubt(lines)
            raise

    def _doubt(self, error: Exception, lines: Lines) -> None:
        if shakes(error):
            self._servers.doubt(lines)

    def _go_on(
        self,
        error: exceptions.RedisError | OSError,
        lines: Lines,
        commands: tuple[_Command, ...],
        timeout_s: float,
        script: Script | None = None,
    ) -> Any:
        """Make a call again where the last answer proves that nothing ran; else raise it."""
        until, asking = self._clock.monotonic() + timeout_s, False
        for _ in range(_DETOURS):
            given = script if isinstance(error, exceptions.NoScriptError) else None
            redirect = redirect_of(error, _node(lines))
            if redirect is not None and self._servers.learn(redirect):
                lines, asking = self._servers.lines_of(redirect.node), redirect.once
            elif given is None:
                break
            line = self._connect(lines, min(until - self._clock.monotonic(), self._servers.connect_s))
            try:
                return self._ask_again(line, commands, until, given, asking=asking)
            except (exceptions.RedisError, OSError) as another:
                error = another
            finally:
                self.give_back(line)
        self._doubt(error, lines)
        raise error

    def _ask_again(
        self, line: Line, commands: tuple[_Command, ...], until: float, given: Script | None, *, asking: bool
    ) -> Any:
        limit_s = min(max(until - self._clock.monotonic(), 0.001), self._answer_s)
        if given is not None:
            line.call(limit_s, "SCRIPT", "LOAD", given.source)
        if asking:
            before = (("ASKING",),)
            return line.call_together(limit_s, tuple(each for one in commands for each in (*before, one)), counts=1)
        return line.call_together(limit_s, commands)


def _node(lines: Lines) -> Node:
    return Node(lines.address.host, lines.address.port)
