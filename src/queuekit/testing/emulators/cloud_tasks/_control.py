# SPDX-License-Identifier: Apache-2.0
"""The emulator's own HTTP server: the certificates of its tokens, and its clock."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MOST_BODY = 1024


class Control:
    """Listens on the loopback interface.

    Args:
        port: 0 for any.
        pages: What is answered to GET, by path.
        advance: Moves the clock, by seconds.

    Raises:
        OSError: The port is in use.
    """

    def __init__(
        self, port: int, *, pages: Mapping[str, Callable[[], Any]], advance: Callable[[float], None]
    ) -> None:
        handler = type("Handler", (_Handler,), {"pages": pages, "advance": staticmethod(advance)})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="cloud-tasks-control", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Callable[[], Any]]
    advance: Callable[[float], None]
    timeout = 5

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is None:
            self._answer(404, {"error": f"there is {', '.join(self.pages)}"})
        else:
            self._answer(200, page())

    def do_POST(self) -> None:
        # A page in a browser can send a form to this host unasked, but not JSON.
        if self.path != "/advance" or self.headers.get_content_type() != "application/json":
            self._answer(400, {"error": 'POST {"seconds": 60} to /advance, as application/json'})
            return
        length = self.headers.get("Content-Length", "")
        seconds = _seconds(self.rfile.read(min(int(length), _MOST_BODY)) if length.isdecimal() else b"")
        if seconds is None:
            self._answer(400, {"error": 'the body must be like {"seconds": 60}, with 0 or more'})
            return
        self.advance(seconds)
        self._answer(200, {"seconds": seconds})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the server uses
        """Nothing: the emulator tells what matters itself."""

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _seconds(body: bytes) -> float | None:
    try:
        seconds = json.loads(body)["seconds"]
    except (ValueError, TypeError, KeyError):
        return None
    ok = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < math.inf
    return float(seconds) if ok else None
