# SPDX-License-Identifier: Apache-2.0
"""A real HTTP server on this host for an ASGI application, with what it answered."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import MutableMapping
from typing import Any, NamedTuple, Self

_LIMIT_S = 20.0


class Answer(NamedTuple):
    """What was answered to one request.

    Attributes:
        status: The status.
        headers: Of the request, by name in lower case.
    """

    status: int
    headers: dict[str, str]


class Serving:
    """Runs an ASGI application by uvicorn, on a thread and on a free loopback port.

    Args:
        application: What is served.
        **settings: Of `uvicorn.Config`.

    Attributes:
        answers: What was answered, in order.

    Examples:
        ```python
        import asyncio

        from queuekit.testing.serving import Serving


        async def application(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        ```
    """

    def __init__(self, application: Any, **settings: Any) -> None:
        self._application, self._settings = application, settings
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._started = threading.Event()
        self._changed = threading.Condition()
        self._server: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        self.answers: list[Answer] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, count: int, *, within_s: float = _LIMIT_S) -> list[Answer]:
        """The answers, once there are so many.

        Raises:
            TimeoutError: There were not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.answers) >= count, within_s):
                msg = f"{len(self.answers)} requests were answered, and {count} were expected"
                raise TimeoutError(msg)
            return list(self.answers)

    def start(self) -> None:
        """Serve.

        Raises:
            RuntimeError: It does not start.
        """
        self._thread.start()
        if not self._started.wait(_LIMIT_S) or self._error is not None or not self._server.started:
            self.stop()
            msg = "the application does not start"
            raise RuntimeError(msg) from self._error

    def stop(self) -> None:
        """Finish what is being answered, and stop."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_LIMIT_S)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        import uvicorn

        settings = {"log_config": None, "access_log": False, "lifespan": "on", "interface": "asgi3"} | self._settings
        try:
            self._server = uvicorn.Server(uvicorn.Config(self._watched, **settings))
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - whoever started it is told
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        serving = asyncio.ensure_future(self._serve_to_the_end())
        while not (self._server.started or serving.done()):
            await asyncio.wait([serving], timeout=0.01)
        self._started.set()
        await serving

    async def _serve_to_the_end(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        except SystemExit as error:
            # A loop would end at once by it, and tell of it in its own words.
            msg = "its lifespan.startup failed"
            raise RuntimeError(msg) from error

    async def _watched(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}

        async def watch(event: MutableMapping[str, Any]) -> None:
            await send(event)
            if event["type"] == "http.response.start":
                with self._changed:
                    self.answers.append(Answer(event["status"], headers))
                    self._changed.notify_all()

        await self._application(scope, receive, watch)
