# SPDX-License-Identifier: Apache-2.0
"""A bad network in front of a real service: connections that are refused, reset, cut or swallowed, and slow ones.

```python
from queuekit.testing.proxy import TcpProxy

with TcpProxy("127.0.0.1", 6379) as proxy:
    url = proxy.through("redis://127.0.0.1:6379/0?queue=orders")
    lost = proxy.cut(to="client")  # the next request arrives, and its answer does not; `lost.is_set()` after that
    proxy.black_hole()  # from now on nothing arrives, and nobody is told
    proxy.heal()
```
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

Direction = Literal["server", "client"]
"""Where bytes are going: requests to the server, answers to the client."""

_BOTH: tuple[Direction, Direction] = ("server", "client")
_CHUNK = 64 << 10
_HELD_CHUNKS = 16
_CONTROL_S = 10.0
_BACKLOG = 128
_LINGER_0 = struct.pack("ii", 1, 0)


class TcpProxy:
    """Listens on a free port of the loopback interface, and passes what comes on to a server, byte by byte.

    What it is told holds for connections that are open as for new ones, until it is told otherwise. Where the server
    itself refuses, the client's connection is reset.

    Args:
        host: The server.
        port: Its port.

    Concurrency:
        Every method may be called from any thread, and has taken effect when it returns. The bytes are moved on a
        thread of its own, which `close` ends. Not usable after a fork.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._listening = False
        self._port = 0
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._open = {to: asyncio.Event() for to in _BOTH}
        self._cuts: list[_Cut] = []
        self._delay_s = 0.0
        self._per_second = 0
        self._accepted = 0

    def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: No port is free.
        """
        self._thread.start()
        self._do(self._heal())

    def close(self) -> None:
        """Reset what is open, and stop. It cannot be started again."""
        if self._loop.is_closed():
            return
        if self._thread.ident is not None:
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CONTROL_S)
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens; the same as long as it lives."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """How many connections were ever made to it."""
        return self._accepted

    def through(self, url: str) -> str:
        """A URL of the server, changed so that it leads through here.

        Raises:
            ValueError: It does not name the server as ``HOST:PORT``, once.
        """
        name = "{}:{}".format(*self._server)
        if url.count(name) != 1:
            msg = f"the URL does not name {name} once"
            raise ValueError(msg)
        return url.replace(name, f"{self.host}:{self._port}")

    def heal(self) -> None:
        """Let everything pass again, without delay; what a black hole has held back arrives now.

        Cuts that have not happened yet are called off.
        """
        self._do(self._heal())

    def refuse(self) -> None:
        """Refuse new connections, as a host does on which the server is not running. Open ones stay."""
        self._do(self._refuse())

    def reset(self) -> int:
        """Reset all connections now, as a firewall or a failing host does. Returns how many there were."""
        return self._do(self._reset())

    def black_hole(self, *, to: Direction | None = None) -> None:
        """Pass nothing on any more, and tell nobody: a half-open link.

        Bytes are held back and go on their way after `heal`, as a network sends them again; so a request that its
        sender has long given up may still arrive then. New connections are made, and stay silent.

        Args:
            to: Only this way. With ``"client"`` the server gets every request, and no answer comes back.
        """
        self._do(self._hold_back(_BOTH if to is None else (to,)))

    def delay(self, by: timedelta) -> None:
        """Let everything arrive that much later, in each direction."""
        self._delay_s = by.total_seconds()

    def throttle(self, bytes_per_second: int) -> None:
        """Pass at most so many bytes a second on each connection, in each direction."""
        self._per_second = bytes_per_second

    def cut(self, *, to: Direction, after: int = 0, matching: bytes = b"") -> threading.Event:
        """Reset one connection in the middle: the first on which more than so many bytes go this way from now on.

        Args:
            to: Which way. ``"client"`` with ``after=0`` loses an answer: the server has acted, and nobody is told.
                ``"server"`` cuts a request.
            after: How many bytes still arrive.
            matching: Count on a connection only from a request on that has these bytes in it, in one piece of up to
                64 KiB; for ``to="server"``, from the start of that piece on.

        Returns:
            An event that is set when it has happened.
        """
        cut = _Cut(to, after, matching)
        self._do(self._add(cut))
        return cut.happened

    def _do(self, action: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(_CONTROL_S)

    async def _refuse(self) -> None:
        """Hold the port, and do not listen on it."""
        if self._listener is not None:
            if self._listening:
                self._accept(self._listener)  # who is connected already is not refused
                self._loop.remove_reader(self._listener)
            self._listener.close()
        self._listening = False
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind((self.host, self._port))
        self._port = self._listener.getsockname()[1]

    async def _heal(self) -> None:
        self._delay_s, self._per_second = 0.0, 0
        self._cuts.clear()
        for gate in self._open.values():
            gate.set()
        if self._listener is None:
            await self._refuse()
        if not self._listening and self._listener is not None:
            self._listener.listen(_BACKLOG)
            self._loop.add_reader(self._listener, self._accept, self._listener)
            self._listening = True

    async def _hold_back(self, directions: tuple[Direction, ...]) -> None:
        for to in directions:
            self._open[to].clear()

    async def _add(self, cut: _Cut) -> None:
        self._cuts.append(cut)

    async def _reset(self) -> int:
        tasks = list(self._links.values())
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    async def _end(self) -> None:
        await self._refuse()
        if self._listener is not None:
            self._listener.close()
        await self._reset()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while True:
                link = _Link(listener.accept()[0])
                self._accepted += 1
                task = self._links[link] = self._loop.create_task(self._serve(link))
                task.add_done_callback(partial(self._gone, link))

    def _gone(self, link: _Link, _task: object) -> None:
        link.close()
        del self._links[link]

    async def _serve(self, link: _Link) -> None:
        for gate in self._open.values():
            await gate.wait()
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._loop.sock_connect(link.server, self._server)
            pumps = [self._loop.create_task(self._pump(link, to)) for to in _BOTH]
            await asyncio.gather(*pumps)
            link.rude = False
        except (OSError, _CutError):
            pass  # whatever happened to one end happens to the other
        finally:
            for each in pumps:
                await _ended(each)

    async def _pump(self, link: _Link, to: Direction) -> None:
        """Move the bytes of one direction, until its sender has no more."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_CHUNKS)
        reading = self._loop.create_task(self._read(link.source(to), held))
        try:
            while True:
                arrived, data = await held.get()
                await _pause(arrived + self._delay_s - self._loop.time())
                await self._open[to].wait()
                if not data:
                    break
                await self._pass(link, to, data)
            await reading  # raises what ended it
            link.target(to).shutdown(socket.SHUT_WR)
        finally:
            await _ended(reading)

    async def _read(self, source: socket.socket, held: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        try:
            while data:
                data = await self._loop.sock_recv(source, _CHUNK)
                await held.put((self._loop.time(), data))
        except OSError:
            await held.put((self._loop.time(), b""))  # behind what came before it
            raise

    async def _pass(self, link: _Link, to: Direction, data: bytes) -> None:
        cut = next((each for each in self._cuts if each.is_due(link, to, data)), None)
        if cut is not None:
            data = data[: cut.after - link.counted[cut]]
            self._cuts.remove(cut)
        step = max(1, self._per_second // 20) if self._per_second else len(data)
        for start in range(0, len(data), step or 1):
            part = data[start : start + step]
            await _pause(len(part) / self._per_second if self._per_second else 0.0)
            await self._loop.sock_sendall(link.target(to), part)
        if cut is not None:
            cut.happened.set()
            raise _CutError


@dataclass(eq=False, slots=True)
class _Cut:
    to: Direction
    after: int
    matching: bytes
    happened: threading.Event = field(default_factory=threading.Event)

    def is_due(self, link: _Link, to: Direction, data: bytes) -> bool:
        """Count what passes; True when there is more of it than may pass."""
        if not self.matching or (to == "server" and self.matching in data):
            link.counted.setdefault(self, 0)
        if to != self.to or self not in link.counted:
            return False
        if link.counted[self] + len(data) > self.after:
            return True
        link.counted[self] += len(data)
        return False


class _CutError(Exception):
    """A connection is to be reset."""


class _Link:
    """A client's connection, and ours to the server for it."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server = socket.socket()
        self.rude = True
        self.counted: dict[_Cut, int] = {}
        for each in (self.client, self.server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def source(self, to: Direction) -> socket.socket:
        return self.client if to == "server" else self.server

    def target(self, to: Direction) -> socket.socket:
        return self.server if to == "server" else self.client

    def close(self) -> None:
        for each in (self.client, self.server):
            if self.rude:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            each.close()


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)


async def _ended(task: asyncio.Task[None]) -> None:
    """End a task; what it raises has been seen, or does not matter."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
