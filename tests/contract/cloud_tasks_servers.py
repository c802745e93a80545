# SPDX-License-Identifier: Apache-2.0
"""The emulator of Cloud Tasks, real HTTP servers that it calls, and queues made before they are used.

Every send of a case goes to the emulator by gRPC, and every delivery comes from it by HTTP: to the app's own server,
as `queuekit worker` serves it, where handlers run; else to a desk (`cloud_tasks_desk`), for cases that take
deliveries one by one. The emulator's time is the harness's, and passes at once where a case lets it pass.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote

from queuekit import App
from queuekit._portable.fronts import PushApplication
from queuekit._portable.worker import ExitCode
from queuekit._wiring.opening import Opener, fill_queue, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import QueueURL
from queuekit.push import OIDC
from queuekit.push._server import serve_at
from queuekit.testing.contract.harness import REAL_LIMIT_S
from queuekit.testing.contract.pushing import ACCOUNT, AUDIENCE, EndpointPushing
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.emulators.cloud_tasks._clock import RunningClock
from queuekit.testing.proxy import TcpProxy

from .cloud_tasks_desk import Desk, PulledOpener
from .declared_queues import MadeFirst

_LOCATION = "europe-west1"
_LEASE_S = 600.0
"""The dispatch deadline of a URL that names none."""


_SERVES = """
def run(app):
    import os, socket
    from queuekit.push import NoAuth
    from queuekit.push._server import serve_at

    with socket.socket(fileno=int(os.environ["QUEUEKIT_LISTENING"])) as listening:
        serve_at(listening, app, app.asgi(auth=NoAuth()), drain_s=app._drain_s)
    return 0
"""

_DIES = """
import os, signal, sys
from queuekit import App
app = App()

@app.handler(sys.stdin.read())
def handle(body: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

run(app)
"""


class TasksPushing(EndpointPushing):
    """An app that the emulator calls, with tokens of its own."""

    harness: CloudTasksHarness
    queue: str

    def garbage(self, body: bytes) -> bool | None:
        before = len(self._serving.answers)
        self.harness.raw_put(self.queue, body)
        return 200 <= self._serving.wait_for(before + 1, within_s=REAL_LIMIT_S)[before].status < 300


class Host:
    """What all cases share: the emulator, which can be started again, the desk, and their time.

    Args:
        folder: For the emulator's state.
    """

    def __init__(self, folder: Path) -> None:
        self.clock = RunningClock()
        self.desk = Desk()
        self._state = folder / "tasks.db"
        self._emulator: LocalCloudTasks | None = None
        self._client: Any = None
        self._ports = (0, 0)

    @property
    def emulator(self) -> LocalCloudTasks:
        assert self._emulator is not None
        return self._emulator

    @property
    def client(self) -> Any:
        """Google's own."""
        return self._client

    def restart(self) -> None:
        """End the emulator, and start it at the same addresses, with what it has kept."""
        self._end()
        self._begin()

    def __enter__(self) -> Self:
        self.desk.serving.start()
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self.desk.serving.stop()

    def _begin(self) -> None:
        port, control_port = self._ports
        self._emulator = LocalCloudTasks(
            port=port,
            control_port=control_port,
            clock=self.clock,
            outside=self.clock,
            state=self._state,
            issuer="own",
        )
        self._ports = _port_of(self._emulator.address), _port_of(self._emulator.control_url)
        self._client = self._emulator.client()

    def _end(self) -> None:
        self._client.transport.close()
        self.emulator.close()


class Balanced:
    """An endpoint behind a balancer that sends it nothing more once it drains.

    Args:
        endpoint: What is served.
        leave: Has new requests go elsewhere.
        loses: How many of the first answers that mean done do not arrive.
    """

    def __init__(self, endpoint: PushApplication, leave: Callable[[], None], loses: int) -> None:
        self._endpoint, self._leave, self._loses = endpoint, leave, loses
        self.lifespan = endpoint.lifespan

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(event: Any) -> None:
            if self._loses and event.get("status", 500) < 300:
                self._loses -= 1
                event = {**event, "status": 502}  # as whoever stands between them says
            await send(event)

        await self._endpoint(scope, receive, pass_on)

    def drain(self, *, at_once: bool = False) -> None:
        threading.Thread(target=self._leave, daemon=True).start()
        self._endpoint.drain(at_once=at_once)


class BothWays:
    """The ways to the emulator, and from it to the desk, as one bad network."""

    def __init__(self, sending: TcpProxy, pushing: TcpProxy) -> None:
        self._sending, self._pushing = sending, pushing

    def cut(self, *, to: Literal["server", "client"], after: int = 0) -> threading.Event:
        """Cut a request that sends, or, where an answer would bring messages, the one that pushes them."""
        way = self._sending if to == "server" else self._pushing
        return way.cut(to="server", after=after)

    def black_hole(self) -> None:
        """Pass nothing on any more."""
        self._sending.black_hole()
        self._pushing.black_hole()

    def heal(self) -> None:
        """Let everything pass again."""
        self._sending.heal()
        self._pushing.heal()


class CloudTasksHarness(MadeFirst):
    """One emulator for all cases; each has a project of its own."""

    host: ClassVar[Host]
    pushed = True
    tells_age = False
    settable = True
    min_lease_s = lease_s = _LEASE_S
    min_delay_s = 1.0
    tolerance_s = 4.0
    grace_s = 10.0
    silence_s = 4.0
    examples = 2
    operations = 200
    flood = 150
    dedup_slack_s = 23 * 3600.0
    name_kept_s = 3 * 86_400.0
    stored_settings: ClassVar = {"rate": 100.0, "max_concurrent": 10, "max_dispatches": 7}
    url_table: ClassVar = {
        "cloudtasks://my-project/europe-west1/orders?target=https://worker.example/tasks": (
            "orders",
            {"target": "https://worker.example/tasks"},
        ),
        "cloudtasks://shop/here/orders?endpoint=localhost:8123&target=http://localhost:8080/tasks": (
            "orders",
            {"endpoint": "localhost:8123", "target": "http://localhost:8080/tasks"},
        ),
    }

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self.clock = self.host.clock
        self.project: str = f"contract-{uuid.uuid4().hex[:12]}"
        self.opener = self.another_opener()

    def base_url(self) -> str:
        return self._base_url(self.host.desk.serving.url)

    def another_opener(self) -> Any:
        made = PulledOpener(self.clock)
        made.desk = self.host.desk
        self._openers.append(made)
        return made

    def in_real_time(self) -> Self:
        """The same: its time passes as the real one does."""
        return self

    def pass_time(self, seconds: float) -> None:
        self.host.clock.advance(seconds)

    def dead_name(self, queue: str) -> str:
        return f"{queue}-dead"

    def raw_put(self, queue: str, body: bytes) -> None:
        request = {
            "url": f"{self.host.desk.serving.url}/{self.project}",
            "body": body,
            "oidc_token": {"service_account_email": ACCOUNT, "audience": AUDIENCE},
        }
        self.host.client.create_task(parent=self._name(queue), task={"http_request": request})

    def raw_get(self, queue: str) -> tuple[bytes, dict[str, str]]:
        place = (self.project, queue)
        ((number, held),) = self.host.desk.take(place, 1, REAL_LIMIT_S)
        self.host.desk.settle(place, number, 204)
        given = {name.removeprefix("qk-a-"): text for name, text in held.headers.items() if name.startswith("qk-a-")}
        return held.body, given

    def nothing_left(self, queue: str) -> bool:
        """Whether every task of the queue is held by who has taken it."""
        tasks = list(self.host.client.list_tasks(parent=self._name(queue)))
        return len(tasks) <= self.host.desk.taken_from((self.project, queue))

    def restart(self) -> None:
        self.host.restart()

    def proxy(self, queue: str) -> tuple[str, Any]:
        sending = self.behind("127.0.0.1", _port_of(self.host.emulator.address))
        pushing = self.behind("127.0.0.1", self.host.desk.serving.port)
        url = fill_queue(QueueURL.parse(self._base_url(f"http://127.0.0.1:{pushing.port}")), queue)
        url = url.with_option("endpoint", f"127.0.0.1:{sending.port}").with_option("answer_timeout", "500ms")
        return url.reveal(), BothWays(sending, pushing)

    @contextmanager
    def push(self, app: App, *, deadline_s: float | None) -> Iterator[TasksPushing]:
        app._opener = self._plain_opener()
        queues = self._queues_of(app)
        pushing = TasksPushing(app, deadline_s=deadline_s, auth=self._auth())
        pushing.harness, pushing.queue = self, queues[0]
        with pushing, self._called(queues, _port_of(pushing.url)):
            yield pushing

    def serve(self, app: App, *, loses: int) -> ExitCode:
        app._opener = self._plain_opener()
        queues = self._queues_of(app)
        endpoint = Balanced(app.asgi(auth=self._auth()), lambda: self._leave(queues), loses)
        with _listening() as listening, self._called(queues, listening.getsockname()[1]):
            serve_at(listening, app, endpoint, drain_s=app._drain_s)
        return ExitCode.DRAINED

    def work_elsewhere(self, queue: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        url = self.url(queue)
        with _listening() as listening, self._called([queue], listening.getsockname()[1]):
            return subprocess.run(
                [sys.executable, "-c", _SERVES + program, *arguments],
                input=url,
                capture_output=True,
                text=True,
                timeout=REAL_LIMIT_S,
                check=False,
                pass_fds=[listening.fileno()],
                env=os.environ | {"QUEUEKIT_LISTENING": str(listening.fileno())},
            )

    def crash_consumer(self, queue: str, *, lease_s: float) -> None:
        ended = self.work_elsewhere(queue, _DIES)
        assert ended.returncode == -signal.SIGKILL, "the server did not get the message"

    def cleanup(self) -> None:
        super().cleanup()
        for queue in self.host.client.list_queues(parent=f"projects/{self.project}/locations/{_LOCATION}"):
            self.host.client.delete_queue(name=queue.name)

    def _base_url(self, desk: str) -> str:
        target = quote(f"{desk}/{self.project}", safe="")
        account = f"service_account={quote(ACCOUNT)}&audience={quote(AUDIENCE, safe='')}"
        endpoint = self.host.emulator.address
        return f"cloudtasks://{self.project}/{_LOCATION}?endpoint={endpoint}&target={target}&{account}&max_backoff=1s"

    def _auth(self) -> OIDC:
        emulator = self.host.emulator
        return OIDC(
            audience=AUDIENCE,
            service_account=ACCOUNT,
            issuer=emulator.issuer,
            certs_url=emulator.certs_url,
            clock=self.clock,
        )

    def _plain_opener(self) -> Opener:
        """What an app has by itself: it receives nothing."""
        made = Opener(self.clock)
        self._openers.append(made)
        return made

    def _queues_of(self, app: App) -> list[str]:
        return [queue_name(QueueURL.parse(each), find_spec("cloudtasks")) for each in app._handlers]

    @contextmanager
    def _called(self, queues: list[str], port: int) -> Iterator[None]:
        """Inside, the tasks of these queues call another port than stands in them, as a queue's own settings can."""
        self._call_at(queues, {"scheme": 1, "host": "127.0.0.1", "port": port})
        for queue in queues:
            self.host.desk.pass_on((self.project, queue), port)
        try:
            yield
        finally:
            self._leave(queues)

    def _leave(self, queues: list[str]) -> None:
        self._call_at(queues, None)
        for queue in queues:
            self.host.desk.pass_on((self.project, queue), None)

    def _call_at(self, queues: list[str], override: Mapping[str, Any] | None) -> None:
        target = {} if override is None else {"uri_override": override}
        for queue in queues:
            changed = {"name": self._name(queue), "http_target": target}
            self.host.client.update_queue(queue=changed, update_mask={"paths": ["http_target"]})

    def _name(self, queue: str) -> str:
        return f"projects/{self.project}/locations/{_LOCATION}/queues/{queue}"


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=2048)


@contextmanager
def served(folder: Path, *harnesses: type[CloudTasksHarness]) -> Iterator[Host]:
    """Inside, the harnesses have an emulator, and a desk."""
    with Host(folder) as host:
        for each in harnesses:
            each.host = host
        yield host
