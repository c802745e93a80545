# SPDX-License-Identifier: Apache-2.0
"""An emulator, Google's own client, and a worker that answers as it is told."""

import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.emulators._certificates import Certificate

_METHODS = [f"do_{name}" for name in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")]
LOCATION = "projects/shop/locations/europe-west1"


class Seen(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Worker:
    """A target. Answers 200, or what stands in `answers`, in order."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answers: deque[int | tuple[int, Mapping[str, str]]] = deque()
        self.busy = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.wires: list[socket.socket] = []
        self.go_on.set()
        handler = type("Handler", (_Handler,), {"worker": self, **dict.fromkeys(_METHODS, _Handler.serve)})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/tasks"

    def use_tls(self, certificate: Certificate) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.file, certificate.key)
        # The handshake is for the thread of the connection: a failed one must not end the server.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = self.url.replace("http://127.0.0.1", "https://localhost")

    def hung_up(self) -> bool:
        """Whether the emulator ends the first connection, soon."""
        wire = self.wires[0]
        wire.settimeout(20)
        try:
            return wire.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # by default 5, and a connection above that waits for a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that does not like the certificate is no news."""


class _Handler(BaseHTTPRequestHandler):
    worker: Worker

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.worker.wires.append(self.connection)
        self.worker.seen.append(Seen(self.command, self.path, dict(self.headers.items()), body))
        answer = self.worker.answers.popleft() if self.worker.answers else 200
        self.worker.busy.release()
        self.worker.go_on.wait(60)
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"ok")
        except ConnectionError:
            pass  # the deadline was over

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the server uses
        pass


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def told() -> list[str]:
    """What the emulator tells."""
    return []


@pytest.fixture
def emulator(clock: VirtualClock, told: list[str]) -> Iterator[LocalCloudTasks]:
    with LocalCloudTasks(clock=clock, tell=told.append) as emulator:
        yield emulator


def client_of(emulator: LocalCloudTasks) -> AbstractContextManager[Any]:
    """Google's client, which takes dictionaries for messages, and has types that do not say so."""
    return emulator.client()


@pytest.fixture
def client(emulator: LocalCloudTasks) -> Iterator[Any]:
    with client_of(emulator) as client:
        yield client


MakeQueue = Callable[..., str]


@pytest.fixture
def queue(client: Any) -> MakeQueue:
    """Make a queue with these settings, and get its name."""

    def make(name: str = "orders", **settings: Any) -> str:
        given = {"name": f"{LOCATION}/queues/{name}", **settings}
        return client.create_queue(parent=LOCATION, queue=given).name

    return make
