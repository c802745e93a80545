# SPDX-License-Identifier: Apache-2.0
"""What Cloud Tasks pushes, taken as if it were received.

Most cases of the suite take deliveries one by one, and settle each when they choose. Here that is true of the service
all the same: `Desk` is a server that keeps each request open until its message is settled, and the answer is what
settles it, as for any other target. So a lease is the dispatch deadline, and what is settled after it is answered to
nobody. `Pulled` makes this the verbs of a backend and adds nothing of its own: an action that no answer can say is
unsupported, and no length of a lease can be asked for. Handlers do not get theirs this way: an app has its own
server, and the desk passes on to it what came before it was there.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import threading
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from google.api_core.exceptions import NotFound

from queuekit._values.capability import Capabilities
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
from queuekit.testing.serving import Serving

Place = tuple[str, str]
"""A project, which is the path of its target here, and a queue."""

_STATUS = {Action.ACK: 204, Action.RETRY: 500, Action.RELEASE: 500}
_LEAST_WAIT_S = 0.05
"""A poll looks for so long at least: what became due this moment is still on its way."""

_LOOKS, _LOOK_AGAIN_S = 1000, 0.01


class Held:
    """A request that waits for its message to be settled."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.path, self.headers, self.body = path, headers, body
        self.is_open = True
        self._loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = self._loop.create_future()

    def answer(self, status: int, retry_after: str | None = None) -> bool:
        """Answer it; False where nobody waits for that any more."""
        was_open, self.is_open = self.is_open, False
        if was_open:
            headers = [] if retry_after is None else [(b"retry-after", retry_after.encode())]
            self._loop.call_soon_threadsafe(self._tell, (status, headers))
        return was_open

    def pass_on(self, port: int) -> None:
        """Have the server at this port answer it."""
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("POST", self.path, self.body, dict(self.headers))
            answer = connection.getresponse()
            answer.read()
            self.answer(answer.status, answer.getheader("retry-after"))
        except (OSError, http.client.HTTPException):
            self.answer(502)
        finally:
            connection.close()

    def _tell(self, answer: tuple[int, list[tuple[bytes, bytes]]]) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)


class Desk:
    """A server that keeps requests until somebody takes and settles the messages in them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Place, deque[Held]] = {}
        self._taken: dict[int, tuple[Place, Held]] = {}
        self._passed_on: dict[Place, int] = {}
        self._numbers = itertools.count(1)
        self.serving = Serving(self._serve, lifespan="off", h11_max_incomplete_event_size=128 * 1024)

    def take(
        self, place: Place, most: int, wait_s: float = _LEAST_WAIT_S, stopped: threading.Event | None = None
    ) -> list[tuple[int, Held]]:
        """Requests of a queue, as soon as there is one; none where there is none, or the wait is stopped."""
        stopped = stopped or threading.Event()
        with self._changed:
            waiting = self._waiting.setdefault(place, deque())
            self._changed.wait_for(
                lambda: stopped.is_set() or any(each.is_open for each in waiting), max(wait_s, _LEAST_WAIT_S)
            )
            taken: list[tuple[int, Held]] = []
            while waiting and len(taken) < most and not stopped.is_set():
                held = waiting.popleft()
                if held.is_open:
                    number = next(self._numbers)
                    self._taken[number] = place, held
                    taken.append((number, held))
            stopped.clear()
            return taken

    def stop(self, stopped: threading.Event) -> None:
        """End a wait."""
        with self._changed:
            stopped.set()
            self._changed.notify_all()

    def settle(self, place: Place, number: Any, status: int) -> Held | None:
        """Answer a request that was taken from there; None where that is over, or it never was."""
        with self._changed:
            whose, held = self._taken.get(number, (None, None))
            if held is None or whose != place:
                return None
            del self._taken[number]
        return held if held.answer(status) else None

    def taken_from(self, place: Place) -> int:
        """How many requests of a queue wait for the settlement of what was taken."""
        with self._changed:
            return sum(whose == place and held.is_open for whose, held in self._taken.values())

    def pass_on(self, place: Place, port: int | None) -> None:
        """Let the server at this port have what nobody has taken, and what still comes; with None, no more."""
        with self._changed:
            if port is None:
                self._passed_on.pop(place, None)
                return
            self._passed_on[place] = port
            waiting = self._waiting.pop(place, deque())
        for each in waiting:
            if each.is_open:
                threading.Thread(target=each.pass_on, args=(port,), daemon=True).start()

    async def _serve(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return  # half of a message is none
            body, more = body + event.get("body", b""), event.get("more_body", False)
        held = Held(scope["path"], headers, body)
        with self._changed:
            place = (scope["path"].strip("/"), headers["x-cloudtasks-queuename"])
            port = self._passed_on.get(place)
            if port is None:
                self._waiting.setdefault(place, deque()).append(held)
                self._changed.notify_all()
            else:
                threading.Thread(target=held.pass_on, args=(port,), daemon=True).start()
        gone = asyncio.ensure_future(receive())
        await asyncio.wait([held.answered, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        held.is_open = False
        if held.answered.done():
            status, told = held.answered.result()
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body"})


class Pulled(CloudTasksBackend):
    """The backend, with what it pushes taken from the desk."""

    def __init__(self, inner: CloudTasksBackend, desk: Desk, place: Place) -> None:
        self.__dict__.update(inner.__dict__)
        self._desk, self._from = desk, place
        self._stopped, self._is_closed = threading.Event(), False
        self._deadline_s = inner.capabilities.push_deadline_s or 0.0
        self._capabilities = _taken_from_desk(inner.capabilities)

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Any:
        self._call("get_queue", {"name": self._name})  # a queue that is not there is told
        taken = [] if self._is_closed else self._desk.take(self._from, max_messages, wait_s, self._stopped)
        until = self._clock.monotonic() + self._deadline_s
        return [self._read(number, held)._replace(lease_until=until) for number, held in taken]

    def interrupt(self) -> None:
        self._desk.stop(self._stopped)

    def close(self) -> None:
        self._is_closed = True
        self.interrupt()

    def _read(self, number: int, held: Held) -> IncomingMessage:
        return self.read_pushed({"headers": held.headers, "body": held.body})._replace(handle=number)

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        return [self._settle(each) for each in batch]

    def _settle(self, entry: Settlement) -> SettleOutcome:
        if entry.action not in _STATUS or entry.delay_s:
            return Unsupported("the answer to a request says nothing of that")
        held = self._desk.settle(self._from, entry.handle, _STATUS[entry.action])
        if held is None:
            return LeaseLost()
        return Settled() if self._is_noted(held, entry.action) else LeaseLost()

    def _is_noted(self, held: Held, action: Action) -> bool:
        """Whether the service has read an answer, which it says of itself; waits until that is known."""
        name, count = held.headers["x-cloudtasks-taskname"], int(held.headers["x-cloudtasks-taskretrycount"]) + 1
        for _ in range(_LOOKS):
            try:
                task = self._call("get_task", {"name": f"{self._name}/tasks/{name}"})
            except NotFound:
                return True
            if task.dispatch_count > count:
                return action is not Action.ACK
            if task.last_attempt.HasField("response_time"):
                return True
            threading.Event().wait(_LOOK_AGAIN_S)
        raise TimeoutError(name)


class PulledOpener(Opener):
    """Opens queues of Cloud Tasks so that they can be received from."""

    desk: Desk

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        made = super().open(url, keywords)
        if not isinstance(made, CloudTasksBackend):
            return made
        return Pulled(made, self.desk, (url.hosts[0].name, queue_name(url, find_spec(url.scheme))))


def _taken_from_desk(can: Capabilities) -> Capabilities:
    deadline_s = can.push_deadline_s or 0.0
    return replace(
        can,
        receives=True,
        max_receive=10,
        max_lease_s=deadline_s,
        fencing="strict",  # an answer goes to its own request
        attempts="exact",  # nothing is called in vain here
        long_poll=True,
        mixed_settles=True,
        max_settle_batch=10,
    )
