# SPDX-License-Identifier: Apache-2.0
"""A worker whose handlers run in child processes, while it keeps every delivery and every lease itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from queuekit._engine.held import Held
from queuekit._engine.metadata import TYPE, read
from queuekit._portable import child as child_module
from queuekit._portable.dead_letters import Cause
from queuekit._portable.frames import pack, pack_jobs, read_verdict, unpack
from queuekit._portable.intake import Intake
from queuekit._portable.retry import RELEASE, Judge, Verdict
from queuekit._portable.worker import QueuePlan, Worker
from queuekit._values.clock import Clock
from queuekit._values.errors import ClosedError, LeaseLostError, QueueKitError, UsageError
from queuekit.backend import Action

if TYPE_CHECKING:
    from queuekit._portable.app import App

MAX_CRASHES = 3
_FAILED_STARTS = 3
_REMEMBERED_CRASHES = 10_000


def target_of(app: App) -> str:
    """Where children find the app: ``module:attribute``.

    Raises:
        UsageError: No module of a handler holds the app.
    """
    for handler in app.handlers:
        module = sys.modules.get(handler.function.__module__)
        for name, value in vars(module).items() if module is not None else ():
            if value is app:
                return f"{handler.function.__module__}:{name}"
    msg = "child processes cannot find this app; keep it in a variable of the module that defines its handlers"
    raise UsageError(msg)


class Crashes:
    """How often a message was running in a child that died. Bounded; the oldest are forgotten first.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def count(self, message_id: str) -> int:
        """One more crash; returns how many there are now."""
        with self._lock:
            known = self._counts.pop(message_id, 0) + 1
            self._counts[message_id] = known
            if len(self._counts) > _REMEMBERED_CRASHES:
                del self._counts[next(iter(self._counts))]
            return known

    def suspect(self, message_id: str) -> bool:
        """Whether the message was there when a child died, so that it should run alone."""
        with self._lock:
            return message_id in self._counts

    def clear(self, message_id: str) -> None:
        """The message was run to its end."""
        with self._lock:
            self._counts.pop(message_id, None)


class ChildProcess:
    """One child at a time, replaced when it dies.

    Args:
        start: Starts a process and returns it with the parent's end of its pipe.
        slots: How many jobs of each queue it runs at once.
        settle: Records the verdict of a job.
        extend: Extends the lease of a job.
        lost: Called with the jobs of a child that died, and with those that hung.
        failed: Called when children die before they are ready, again and again.

    Concurrency:
        Each queue's dispatcher calls `submit` and `await_room`; one thread reads.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Any, Connection]],
        slots: Sequence[int],
        *,
        settle: Callable[[int, Held, Verdict], None],
        extend: Callable[[int, Held, float], None],
        lost: Callable[[list[tuple[int, Held]], set[Held]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._start, self._slots = start, slots
        self._settle, self._extend, self._lost, self._failed = settle, extend, lost, failed
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._send_lock = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None
        self._jobs: dict[int, tuple[int, Held]] = {}
        self._hung: set[Held] = set()
        self._next_job = 0
        self._ready = False
        self._alone = False
        self._stopping = False
        self._failed_starts = 0
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the first process and the thread that listens to it."""
        self._replace()
        self._reader = threading.Thread(target=self._listen_forever, name="queuekit-child", daemon=True)
        self._reader.start()

    def await_room(self, queue: int) -> int:
        """Wait until jobs of a queue can be given to the child; how many. 0 when stopping."""
        with self._lock:
            while not self._stopping:
                room = self._slots[queue] - sum(index == queue for index, _ in self._jobs.values())
                if self._ready and not self._alone and room > 0:
                    return room
                self._changed.wait()
            return 0

    def submit(self, queue: int, batch: Sequence[Held], *, alone: bool = False) -> bool:
        """Give jobs to the child; False when it is not there, and the jobs were not begun."""
        with self._lock:
            while not self._stopping and not (self._ready and self._alone == alone):
                self._changed.wait()
            if self._stopping or self._connection is None:
                return False
            connection = self._connection
            jobs = [(self._next_job + index, held) for index, held in enumerate(batch)]
            self._next_job += len(batch)
            self._jobs.update((job_id, (queue, held)) for job_id, held in jobs)
        self._say(connection, pack_jobs(queue, [(job_id, held.message) for job_id, held in jobs]))
        return True

    def submit_alone(self, queue: int, held: Held) -> bool:
        """Give one job to the child when it runs nothing else, and wait until it has ended."""
        with self._lock:
            while not self._stopping and (self._alone or self._jobs):
                self._changed.wait()
            self._alone = True
        try:
            if not self.submit(queue, [held], alone=True):
                return False
            with self._lock:
                while self._jobs and not self._stopping:
                    self._changed.wait()
            return True
        finally:
            with self._lock:
                self._alone = False
                self._changed.notify_all()

    def tell_lost(self, held: Held) -> None:
        """Tell the child that the lease of a job was lost."""
        with self._lock:
            job_id = next((each for each, (_, other) in self._jobs.items() if other is held), None)
            connection = self._connection
        if job_id is not None and connection is not None:
            self._say(connection, pack({"op": "lost", "job": job_id}))

    def drain(self) -> None:
        """Let the child know that the worker is stopping, and take no more jobs."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
            connection = self._connection
        if connection is not None:
            self._say(connection, pack({"op": "drain"}))

    def kill(self) -> None:
        """End the child now, whatever it runs."""
        with self._lock:
            self._stopping = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self, timeout_s: float) -> None:
        """Let the child end, and make sure that it did."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
            process, connection = self._process, self._connection
        # Killing is safe: nothing that it runs is ours any more, and it owns no file or socket of the queue.
        if process is not None:
            process.kill()
            process.join(timeout_s)
        if self._reader is not None:
            self._reader.join(timeout_s)
        if connection is not None:
            connection.close()

    def _replace(self) -> None:
        process, connection = self._start()
        with self._lock:
            self._process, self._connection = process, connection

    def _listen_forever(self) -> None:
        while True:
            self._listen()
            with self._lock:
                gone, self._jobs = list(self._jobs.values()), {}
                hung, self._hung = self._hung, set()
                started, self._ready = self._ready, False
                self._failed_starts = 0 if started else self._failed_starts + 1
                stopping, connection = self._stopping, self._connection
                self._changed.notify_all()
            self._process.join()
            if connection is not None:
                connection.close()
            self._lost(gone, hung)
            if stopping:
                return
            if self._failed_starts >= _FAILED_STARTS:
                self._failed(RuntimeError("child processes end before they are ready; their messages tell why"))
                return
            self._replace()

    def _listen(self) -> None:
        """Obey one child until it is gone."""
        connection = self._connection
        while connection is not None:
            try:
                header, _ = unpack(connection.recv_bytes())
            except (EOFError, OSError):
                return
            self._obey(connection, header)

    def _obey(self, connection: Connection, header: dict[str, Any]) -> None:
        if header["op"] == "done":
            for row in header["results"]:
                self._finish(*read_verdict(row))
        elif header["op"] == "ready":
            with self._lock:
                self._ready = True
                self._changed.notify_all()
        elif header["op"] == "extend":
            threading.Thread(target=self._answer_extend, args=(connection, header), daemon=True).start()
        elif header["op"] == "hung":
            with self._lock:
                job = self._jobs.get(header["job"])
                if job is not None:
                    self._hung.add(job[1])
            self._process.kill()

    def _finish(self, job_id: int, verdict: Verdict) -> None:
        with self._lock:
            job = self._jobs.pop(job_id, None)
            self._changed.notify_all()
        if job is not None:
            self._settle(job[0], job[1], verdict)

    def _answer_extend(self, connection: Connection, header: dict[str, Any]) -> None:
        with self._lock:
            job = self._jobs.get(header["job"])
        answer, detail = "ok", ""
        try:
            if job is not None:
                self._extend(job[0], job[1], header["by"])
        except LeaseLostError:
            answer = "lost"
        except QueueKitError as error:
            answer, detail = error.code, str(error)
        self._say(connection, pack({"op": "extended", "job": header["job"], "answer": answer, "detail": detail}))

    def _say(self, connection: Connection, frame: bytes) -> None:
        try:
            with self._send_lock:
                connection.send_bytes(frame)
        except OSError:
            return  # the child died; the reader sees that too, and gives its jobs back


class ProcessWorker(Worker):
    """As `Worker`, with handlers in child processes.

    The parent polls, keeps leases and settles, so code that holds the interpreter lock, hangs or crashes
    harms its own child only. What a dead child was running is retried, alone; after three crashes it is
    dead as ``worker lost``.

    Args:
        queues: What to work.
        clock: Time.
        drain_s: How long running handlers may go on after a request to stop.
        processes: How many children.
        target: Where they find the app.
    """

    def __init__(
        self, queues: Sequence[QueuePlan], clock: Clock, *, drain_s: float, processes: int, target: str
    ) -> None:
        super().__init__(queues, clock, drain_s=drain_s)
        if type(processes) is not int or processes < 1:
            msg = f"processes must be a whole number of at least 1 and is {processes!r}"
            raise UsageError(msg)
        self._crashes = Crashes()
        self._context = multiprocessing.get_context("spawn")
        self._target = target
        # Slots are shared out, and every child has at least one of each queue.
        self._child_slots = [-(-queue.slots // processes) for queue in queues]
        self._children = [self._make_child() for _ in range(processes)]
        self._dispatchers: list[threading.Thread] = []

    def _make_child(self) -> ChildProcess:
        return ChildProcess(
            self._spawn,
            self._child_slots,
            settle=self._settle,
            extend=lambda queue, held, by_s: self._intake(queue).extend(held, by_s),
            lost=self._child_lost,
            failed=self._fail,
        )

    def _spawn(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        names = [(queue.name, slots) for queue, slots in zip(self._queues, self._child_slots, strict=True)]
        process = self._context.Process(
            target=child_module.main, args=(theirs, self._target, names), name="queuekit-worker", daemon=True
        )
        process.start()
        # Our copy of the child's end must go, or its death would not end the pipe.
        theirs.close()
        return process, ours

    def _start(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:  # noqa: ARG002 - children have their own
        for child in self._children:
            child.start()
        for index, queue in enumerate(self._queues):
            queue.intake.on_lost = self._tell_lost
            for child in self._children:
                thread = threading.Thread(
                    target=self._dispatch, args=(index, queue.intake, child), name="queuekit-dispatch", daemon=True
                )
                self._dispatchers.append(thread)
                thread.start()
            detail = f"{len(queue.handlers)} handlers, {queue.slots} at once in {len(self._children)} processes"
            queue.intake.link.journal.note("worker.started", detail)

    def _dispatch(self, index: int, intake: Intake, child: ChildProcess) -> None:
        try:
            while room := child.await_room(index):
                self._hand_over(index, intake, child, intake.receiver.take_many(room, None))
        except ClosedError:
            return
        except QueueKitError as error:
            self._fail(error)

    def _hand_over(self, index: int, intake: Intake, child: ChildProcess, batch: Sequence[Held]) -> None:
        plain = [held for held in batch if not self._crashes.suspect(held.message.message_id)]
        if plain and not child.submit(index, plain):
            _release(intake, plain)
        for held in batch:
            if held not in plain and not child.submit_alone(index, held):
                _release(intake, [held])

    def _settle(self, index: int, held: Held, verdict: Verdict) -> None:
        if self._crashes.suspect(held.message.message_id):
            self._crashes.clear(held.message.message_id)
        self._intake(index).settle(held, verdict)

    def _child_lost(self, jobs: list[tuple[int, Held]], hung: set[Held]) -> None:
        """Retry what a dead child was running; what merely ran beside a hung handler was not to blame."""
        for index, held in jobs:
            if not hung:
                verdict = self._crashed(held.message.message_id)
            else:
                verdict = self._timed_out(index, held) if held in hung else RELEASE
            self._intake(index).settle(held, verdict)
        if jobs and not self.draining:
            journal = self._intake(jobs[0][0]).link.journal
            journal.note("worker.child_lost", f"it was running {len(jobs)} messages", count=len(jobs))

    def _crashed(self, message_id: str) -> Verdict:
        crashes = self._crashes.count(message_id)
        if crashes >= MAX_CRASHES:
            return Verdict(Action.DEAD, cause=Cause(f"worker lost {crashes} times"))
        return Verdict(Action.RETRY, cause=Cause("worker lost"))

    def _timed_out(self, index: int, held: Held) -> Verdict:
        """A handler that was killed at its timeout has failed, and its policy decides."""
        queue, message = self._queues[index], held.message
        handler = next((each for each in queue.handlers if each.message_type == message.metadata.get(TYPE)), None)
        judge = Judge((handler or queue.handlers[0]).retry, queue.intake.link.capabilities, self._clock)
        attempt = None if message.attempt is None else message.attempt + read(message.metadata).base
        return judge.on_error(TimeoutError("the handler ran past its timeout"), attempt)

    def _shut_down(self) -> None:
        for child in self._children:
            child.drain()
        super()._shut_down()
        for child in self._children:
            child.close(1.0)

    def _cancel(self) -> None:
        for child in self._children:
            child.kill()

    def _tell_lost(self, held: Held) -> None:
        for child in self._children:
            child.tell_lost(held)

    def _intake(self, index: int) -> Intake:
        return self._queues[index].intake


def _release(intake: Intake, batch: Iterable[Held]) -> None:
    for held in batch:
        intake.settle(held, RELEASE)
