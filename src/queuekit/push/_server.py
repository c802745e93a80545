# SPDX-License-Identifier: Apache-2.0
"""Serves an endpoint by uvicorn, as `queuekit worker` does where messages are pushed."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from queuekit._portable.app import App
from queuekit._portable.fronts import PushApplication
from queuekit._values.errors import BackendMissingError, UsageError

if TYPE_CHECKING:
    import uvicorn

_MOST_CONNECTIONS = 1500
"""More are closed at once. uvicorn's own limit keeps them all, at 18 KB each, and answers nobody any more."""
_KEEP_ALIVE_S = 75
_HEADER_BYTES = 128 * 1024
"""Cloud Tasks sends up to 80 KB of them, and uvicorn by itself takes 64."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(app: App, endpoint: PushApplication, *, host: str, port: int, drain_s: float) -> None:
    """Serve an endpoint until SIGTERM, SIGINT or `App.stop`; then drain.

    Args:
        app: Whose endpoint it is.
        endpoint: From `App.asgi`.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        drain_s: How long what runs may go on when asked to stop.

    Raises:
        BackendMissingError: uvicorn is not installed.
        UsageError: The address cannot be listened on, or a queue cannot be worked as it is.
        QueueKitError: As `App.asgi` says of a start.
    """
    with _listening(host, port) as listening:
        serve_at(listening, app, endpoint, drain_s=drain_s)


def serve_at(listening: socket.socket, app: App, endpoint: PushApplication, *, drain_s: float) -> None:
    """As `serve`, at a socket that listens already; it is closed at the end.

    Raises:
        BackendMissingError: uvicorn is not installed.
        QueueKitError: As `serve` does.
    """
    try:
        import uvicorn
    except ImportError as error:
        msg = "serving what is pushed needs uvicorn, which is not installed; pip install 'queuekit[push]'"
        raise BackendMissingError(msg) from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Nothing: its own way ends the process by the signal, and not with an exit code."""
            yield

    config = uvicorn.Config(
        endpoint,
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=math.ceil(drain_s),
    )
    config.load()
    config.http_protocol_class = _bounded(config.http_protocol_class)
    asyncio.run(_run(app, endpoint, Server(config), listening))


async def _run(app: App, endpoint: PushApplication, server: uvicorn.Server, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Whoever asks twice does not want to wait.
        again = server.should_exit
        endpoint.drain(at_once=again)
        server.force_exit = again
        server.should_exit = True

    app.when_stopped(_from_any_thread(loop, stop))
    for each in _SIGNALS:
        with suppress(NotImplementedError, RuntimeError, ValueError):  # another thread, or another system
            loop.add_signal_handler(each, stop)
    async with endpoint.lifespan():
        await server.serve(sockets=[listening])


def _bounded(protocol: Any) -> Any:
    """A protocol of uvicorn's, for no more connections than there may be."""

    class Bounded(protocol):  # type: ignore[misc]  # whichever of its protocols uvicorn has chosen
        def connection_made(self, transport: asyncio.Transport) -> None:
            self.is_let_in = len(self.connections) < _MOST_CONNECTIONS
            if self.is_let_in:
                super().connection_made(transport)
            else:
                transport.abort()

        def connection_lost(self, error: Exception | None) -> None:
            if self.is_let_in:
                super().connection_lost(error)

    return Bounded


def _from_any_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> Callable[[], None]:
    def pass_on() -> None:
        with suppress(RuntimeError):  # it is over already
            loop.call_soon_threadsafe(call)

    return pass_on


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: It cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        msg = f"cannot listen on {host}, port {port}: {error}; choose others by --host and --port"
        raise UsageError(msg) from error
