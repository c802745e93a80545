# SPDX-License-Identifier: Apache-2.0
"""A worker's child process: it runs handlers, and talks to nobody but its parent."""

from __future__ import annotations

import asyncio
import os
import pkgutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

from queuekit._portable.batch_running import BatchJob
from queuekit._portable.frames import pack, unpack, unpack_jobs, verdict_row
from queuekit._portable.handler import AnyHandler, BatchHandler
from queuekit._portable.link import Link
from queuekit._portable.loop_running import TaskRunner, own_loop
from queuekit._portable.retry import Verdict
from queuekit._portable.runners import Runner, RunnerMaker
from queuekit._portable.triage import Triage
from queuekit._portable.wrapping import waiting_on
from queuekit._values.clock import SystemClock
from queuekit._values.errors import (
    AccessDeniedError,
    AlreadySettledError,
    ClosedError,
    LeaseLostError,
    ProviderError,
    QueueKitError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from queuekit.backend import IncomingMessage

J = TypeVar("J")

_ERRORS: dict[str, type[QueueKitError]] = {
    each.default_code: each
    for each in (
        AccessDeniedError,
        AlreadySettledError,
        LeaseLostError,
        UnavailableError,
        UnsupportedError,
        UsageError,
    )
}
"""What an extension can fail with, by the code that the parent sends."""


class ChildApp(Protocol):
    """An app, as far as a child needs it."""

    def open_queue(self, name: str) -> tuple[Link, Sequence[AnyHandler]]:
        """A queue's link and handlers."""
        ...

    def when_stopped(self, stop: Callable[[], None]) -> None:
        """Say what `stop` does from now on."""
        ...


def main(connection: Connection, target: str, queues: Sequence[tuple[str, int]]) -> None:
    """The whole life of a child.

    Args:
        connection: To the parent; its end is ours too.
        target: Names the app.
        queues: Name and number of slots of each queue, in the parent's order.
    """
    # The parent decides when to stop; a Ctrl-C reaches the whole group of processes.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    child = _Child(connection)
    # The parent found the app under this name, so it is one.
    child.start(pkgutil.resolve_name(target), queues)
    child.listen()
    # Handlers that still run belong to nobody: the parent has released or given up their deliveries.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _Child:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._results: list[list[Any]] = []
        self._results_wanted = threading.Condition(self._lock)
        self._feeds: list[Callable[[list[PipeJob]], None]] = []
        self._jobs: dict[int, PipeJob] = {}
        self._requests = 0
        self._answers: dict[int, tuple[threading.Event, list[str]]] = {}
        self._loop_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.draining = False

    def start(self, app: ChildApp, queues: Sequence[tuple[str, int]]) -> None:
        """Make one runner per queue, and tell the parent."""
        clock = SystemClock()
        app.when_stopped(lambda: self.say({"op": "stop"}))
        for name, slots in queues:
            link, handlers = app.open_queue(name)
            triage = Triage(handlers, link, clock, lambda: self.draining, waiting_on(self._own_loop))
            make = RunnerMaker(triage, clock, slots=slots, failed=_give_up, hung=_ignore, name=name)
            runner = self._runner(make, handlers)
            if isinstance(runner, TaskRunner):
                asyncio.run_coroutine_threadsafe(runner.run(), self._own_loop())
            else:
                runner.start()
        threading.Thread(target=self._report_forever, name="queuekit-results", daemon=True).start()
        self.say({"op": "ready"})

    def _runner(self, make: RunnerMaker, handlers: Sequence[AnyHandler]) -> Runner:
        if isinstance(handlers[0], BatchHandler):
            batches: PipeFeed[PipeBatch] = PipeFeed()
            # The parent has gathered them: what comes in one frame is one batch.
            self._feeds.append(lambda jobs: batches.add([PipeBatch(jobs)]))
            return make.in_batches(batches, is_async=handlers[0].is_async)
        feed: PipeFeed[PipeJob] = PipeFeed()
        self._feeds.append(feed.add)
        return make.one_by_one(feed, is_async=handlers[0].is_async)

    def listen(self) -> None:
        """Obey the parent until it closes the pipe."""
        while True:
            try:
                header, bodies = unpack(self._connection.recv_bytes())
            except (EOFError, OSError):
                return
            if header["op"] == "jobs":
                jobs = [PipeJob(self, job_id, message) for job_id, message in unpack_jobs(header, bodies)]
                self._jobs.update((job.job_id, job) for job in jobs)
                self._feeds[header["queue"]](jobs)
            elif header["op"] == "lost":
                job = self._jobs.get(header["job"])
                if job is not None:
                    job.lease_lost = True
            elif header["op"] == "extended":
                self._answer(header)
            elif header["op"] == "drain":
                self.draining = True

    def say(self, header: dict[str, Any]) -> None:
        """Send one frame to the parent."""
        with self._lock:
            self._connection.send_bytes(pack(header))

    def report(self, job_id: int, verdict: Verdict) -> None:
        """Have a verdict sent, together with others."""
        row = verdict_row(job_id, verdict)
        with self._lock:
            self._jobs.pop(job_id, None)
            self._results.append(row)
            self._results_wanted.notify()

    def extend(self, job_id: int, by_s: float) -> None:
        """Ask the parent to extend a lease, and wait for its answer.

        Raises:
            LeaseLostError: The delivery is not ours any more.
            QueueKitError: The service did not answer or refused.
        """
        done, answer = threading.Event(), list[str]()
        with self._lock:
            self._requests += 1
            self._answers[self._requests] = (done, answer)
            frame = pack({"op": "extend", "request": self._requests, "job": job_id, "by": by_s})
            self._connection.send_bytes(frame)
        done.wait()
        code, detail = answer
        if code:
            failure = _ERRORS.get(code, ProviderError)(detail, operation="extend", code=code)
            raise failure

    def _answer(self, header: dict[str, Any]) -> None:
        with self._lock:
            done, answer = self._answers.pop(header["request"])
        answer.extend((header["code"], header["detail"]))
        done.set()

    def _report_forever(self) -> None:
        while True:
            with self._lock:
                while not self._results:
                    self._results_wanted.wait()
                rows, self._results = self._results, []
                frame = pack({"op": "done", "results": rows})
                try:
                    self._connection.send_bytes(frame)
                except OSError:
                    return

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._loop_lock:
            if self._loop is None:
                self._loop, _ = own_loop()
            return self._loop


class PipeJob:
    """A delivery that the parent holds, as the runners of a child see it."""

    __slots__ = ("child", "job_id", "lease_lost", "message")

    def __init__(self, child: _Child, job_id: int, message: IncomingMessage) -> None:
        self.child = child
        self.job_id = job_id
        self.message = message
        self.lease_lost = False

    def settle(self, verdict: Verdict) -> None:
        """Send the verdict to the parent."""
        self.child.report(self.job_id, verdict)

    def abandon(self) -> None:
        """Tell the parent that this handler hangs; it will replace this process."""
        self.child.say({"op": "hung", "jobs": [self.job_id]})

    def extend(self, by_s: float) -> None:
        """Extend its lease now."""
        self.child.extend(self.job_id, by_s)


class PipeBatch(BatchJob):
    """Deliveries that the parent holds, and gathered."""

    __slots__ = ("_child", "_ids")

    def __init__(self, jobs: Sequence[PipeJob]) -> None:
        super().__init__(jobs)
        self._child, self._ids = jobs[0].child, [job.job_id for job in jobs]

    def abandon(self) -> None:
        """Tell the parent that their handler hangs; it will replace this process."""
        self._child.say({"op": "hung", "jobs": self._ids})


class PipeFeed(Generic[J]):
    """The jobs, or batches, of one queue, from the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._jobs: deque[J] = deque()
        self._callbacks: list[Callable[[], None]] = []

    def add(self, jobs: Sequence[J]) -> None:
        """Jobs that just came."""
        with self._lock:
            self._jobs.extend(jobs)
            self._arrived.notify(len(jobs))
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def take(self) -> J | None:
        """The next job, waiting for it."""
        with self._lock:
            while not self._jobs:
                self._arrived.wait()
            return self._jobs.popleft()

    def take_now(self) -> J | None:
        """The next job that is here, or None."""
        with self._lock:
            return self._jobs.popleft() if self._jobs else None

    def when_ready(self, callback: Callable[[], None], wanted: int = 1) -> None:  # noqa: ARG002 - the parent knows
        """Have ``callback`` called once, when `take_now` is worth trying."""
        with self._lock:
            here = bool(self._jobs)
            if not here:
                self._callbacks.append(callback)
        if here:
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a `when_ready`."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


def _give_up(error: BaseException) -> None:
    if not isinstance(error, ClosedError):
        sys.stderr.write(f"queuekit: a child process cannot go on: {error}\n")
        os._exit(1)


def _ignore(_hung: int, _slots: int) -> None:
    """The parent was told by the job itself."""
