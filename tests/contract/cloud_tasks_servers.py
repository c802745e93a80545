# SPDX-License-Identifier: Apache-2.0
"""The emulator of Cloud Tasks, a real HTTP server that it calls, and queues made before they are used.

What the service only pushes is taken by the suite all the same: `Pulled` stands in for the backend, and its server
keeps each request open until the message in it is settled, which is what answers it. So every send of a case goes to
the emulator by gRPC, and every delivery comes from it by HTTP. What is pushed to an app goes to the app's own server.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from queuekit import App
from queuekit._wiring.opening import Opener, queue_name
from queuekit._wiring.registry import find_spec
from queuekit.backend import (
    Action,
    Backend,
    IncomingMessage,
    LeaseLost,
    QueueURL,
    Settled,
    Settlement,
    SettleOutcome,
    Unsupported,
)
from queuekit.backends.cloudtasks import CloudTasksBackend
from queuekit.push import OIDC
from queuekit.testing.contract import Harness
from queuekit.testing.contract.harness import REAL_LIMIT_S
from queuekit.testing.contract.pushing import ACCOUNT, AUDIENCE, EndpointPushing
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.serving import Serving

_STATUS = {Action.ACK: 204, Action.RETRY: 500, Action.RELEASE: 500}
_LOCATION = "europe-west1"


class Held:
    """A request that waits for its message to be settled."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.request: Mapping[str, Any] = {"headers": headers, "body": body}
        self.is_open = True
        self._loop = asyncio.get_running_loop()
        self.status: asyncio.Future[int] = self._loop.create_future()

    def answer(self, status: int) -> bool:
        """Answer it; False where nobody waits for that any more."""
        was_open, self.is_open = self.is_open, False
        if was_open:
            self._loop.call_soon_threadsafe(self._tell, status)
        return was_open

    def _tell(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)


class Desk:
    """A server that keeps requests until somebody takes and settles the messages in them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], deque[Held]] = {}
        self._taken: dict[int, Held] = {}
        self._numbers = itertools.count(1)
        self.serving = Serving(self._serve, lifespan="off")

    def take(
        self, place: tuple[str, str], most: int, wait_s: float, stopped: threading.Event
    ) -> list[tuple[int, Held]]:
        """Requests of a queue, as soon as there is one."""
        with self._changed:
            waiting = self._waiting.setdefault(place, deque())
            self._changed.wait_for(lambda: stopped.is_set() or any(each.is_open for each in waiting), wait_s)
            stopped.clear()
            taken: list[tuple[int, Held]] = []
            while waiting and len(taken) < most:
                held = waiting.popleft()
                if held.is_open:
                    number = next(self._numbers)
                    self._taken[number] = held
                    taken.append((number, held))
            return taken

    def stop(self, stopped: threading.Event) -> None:
        """End a wait."""
        with self._changed:
            stopped.set()
            self._changed.notify_all()

    def settle(self, number: int, status: int) -> bool:
        """Answer a request that was taken; False where that is over."""
        with self._changed:
            held = self._taken.pop(number, None)
        return held is not None and held.answer(status)

    def give_back(self, place: tuple[str, str]) -> None:
        """Let what nobody has taken come again."""
        with self._changed:
            waiting = self._waiting.pop(place, deque())
        for each in waiting:
            each.answer(500)

    async def _serve(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        held = Held(headers, body)
        with self._changed:
            place = (scope["path"].strip("/"), headers["x-cloudtasks-queuename"])
            self._waiting.setdefault(place, deque()).append(held)
            self._changed.notify_all()
        gone = asyncio.ensure_future(receive())
        await asyncio.wait([held.status, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        held.is_open = False
        if held.status.done():
            await send({"type": "http.response.start", "status": held.status.result(), "headers": []})
            await send({"type": "http.response.body"})


class Pulled(CloudTasksBackend):
    """The backend, with what it pushes taken from the desk."""

    def __init__(self, inner: CloudTasksBackend, desk: Desk, place: tuple[str, str]) -> None:
        self.__dict__.update(inner.__dict__)
        self._desk, self._from, self._stopped = desk, place, threading.Event()
        deadline_s = inner.capabilities.push_deadline_s or 0.0
        self._capabilities = replace(
            inner.capabilities,
            receives=True,
            max_receive=10,
            max_lease_s=deadline_s,
            long_poll=True,
            mixed_settles=True,
            max_settle_batch=10,
        )
        self._deadline_s = deadline_s

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Any:
        self._call("get_queue", {"name": self._name})  # a queue that is not there is told
        until = self._clock.monotonic() + self._deadline_s
        return [
            self._read(number, held)._replace(lease_until=until)
            for number, held in self._desk.take(self._from, max_messages, wait_s, self._stopped)
        ]

    def interrupt(self) -> None:
        self._desk.stop(self._stopped)

    def _read(self, number: int, held: Held) -> IncomingMessage:
        return self.read_pushed(held.request)._replace(handle=number)

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        return [self._settle(each) for each in batch]

    def _settle(self, entry: Settlement) -> SettleOutcome:
        if entry.action not in _STATUS or entry.delay_s:
            return Unsupported("the answer to a request says nothing of that")
        number: Any = entry.handle
        done = self._desk.settle(number, _STATUS[entry.action])
        return Settled() if done else LeaseLost()


class PulledOpener(Opener):
    """Opens queues of Cloud Tasks so that they can be received from."""

    desk: Desk

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        made = super().open(url, keywords)
        if not isinstance(made, CloudTasksBackend):
            return made
        return Pulled(made, self.desk, (url.hosts[0].name, queue_name(url, find_spec(url.scheme))))


class TasksPushing(EndpointPushing):
    """An app that the emulator calls, with tokens of its own."""

    harness: CloudTasksHarness
    queue: str

    def garbage(self, body: bytes) -> bool | None:
        before = len(self._serving.answers)
        self.harness.raw_put(self.queue, body)
        return 200 <= self._serving.wait_for(before + 1, within_s=REAL_LIMIT_S)[before].status < 300


class CloudTasksHarness(Harness):
    """One emulator for all cases; each has a project of its own."""

    emulator: ClassVar[LocalCloudTasks]
    desk: ClassVar[Desk]
    client: ClassVar[Any]
    min_lease_s = 2.0
    min_delay_s = 1.0
    tolerance_s = 2.0
    examples = 2
    operations = 200
    flood = 150
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
        self.project: str = f"contract-{uuid.uuid4().hex[:12]}"
        self.opener = self._opener()
        self._openers.append(self.opener)
        self._made: set[str] = set()

    def base_url(self) -> str:
        target = quote(f"{self.desk.serving.url}/{self.project}", safe="")
        account = f"service_account={quote(ACCOUNT)}&audience={quote(AUDIENCE, safe='')}"
        return f"cloudtasks://{self.project}/{_LOCATION}?endpoint={self.emulator.address}&target={target}&{account}"

    def another_opener(self) -> Any:
        made = self._opener()
        self._openers.append(made)
        return made

    def dead_name(self, queue: str) -> str:
        return f"{queue}-dead"

    def url(self, queue: str) -> str:
        if queue not in self._made:
            self._made.add(queue)
            made: Any = self.opener.open(QueueURL.parse(self.url_of(queue)))
            if not made.exists():
                made.create()
            made.close()
        return self.url_of(queue)

    def raw_put(self, queue: str, body: bytes) -> None:
        request = {
            "url": f"{self.desk.serving.url}/{self.project}",
            "body": body,
            "oidc_token": {"service_account_email": ACCOUNT, "audience": AUDIENCE},
        }
        self.client.create_task(parent=self._name(queue), task={"http_request": request})

    def raw_get(self, queue: str) -> tuple[bytes, dict[str, str]]:
        ((number, held),) = self.desk.take((self.project, queue), 1, REAL_LIMIT_S, threading.Event())
        self.desk.settle(number, 204)
        headers = held.request["headers"]
        given = {name.removeprefix("qk-a-"): text for name, text in headers.items() if name.startswith("qk-a-")}
        return held.request["body"], given

    @contextmanager
    def push(self, app: App, *, deadline_s: float | None) -> Iterator[TasksPushing]:
        auth = OIDC(
            audience=AUDIENCE,
            service_account=ACCOUNT,
            issuer=self.emulator.issuer,
            certs_url=self.emulator.certs_url,
        )
        queues = [queue_name(QueueURL.parse(each), find_spec("cloudtasks")) for each in app._handlers]
        pushing = TasksPushing(app, deadline_s=deadline_s, auth=auth)
        pushing.harness, pushing.queue = self, queues[0]
        with pushing:
            port = int(pushing.url.rpartition(":")[2])
            self._call_at(queues, {"scheme": 1, "host": "127.0.0.1", "port": port})
            try:
                yield pushing
            finally:
                self._call_at(queues, None)

    def cleanup(self) -> None:
        super().cleanup()
        for queue in self.client.list_queues(parent=f"projects/{self.project}/locations/{_LOCATION}"):
            self.client.delete_queue(name=queue.name)

    def _opener(self) -> PulledOpener:
        made = PulledOpener(self.clock)
        made.desk = self.desk
        return made

    def _call_at(self, queues: list[str], override: Mapping[str, Any] | None) -> None:
        """Have a queue's tasks call another address than stands in them, as its own settings can."""
        target = {} if override is None else {"uri_override": override}
        for queue in queues:
            changed = {"name": self._name(queue), "http_target": target}
            self.client.update_queue(queue=changed, update_mask={"paths": ["http_target"]})
            self.desk.give_back((self.project, queue))

    def _name(self, queue: str) -> str:
        return f"projects/{self.project}/locations/{_LOCATION}/queues/{queue}"


@contextmanager
def served(*harnesses: type[CloudTasksHarness]) -> Iterator[LocalCloudTasks]:
    """Inside, the harnesses have an emulator, and a desk."""
    desk = Desk()
    with desk.serving, LocalCloudTasks(issuer="own") as emulator, emulator.client() as client:
        for each in harnesses:
            each.emulator, each.desk, each.client = emulator, desk, client
        yield emulator
