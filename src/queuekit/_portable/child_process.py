# SPDX-License-Identifier: Apache-2.0
"""The parent's end of one child process: what it runs, and what becomes of it when the child dies."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from queuekit._engine.held import Held
from queuekit._portable.frames import pack, pack_jobs, read_verdict, unpack
from queuekit._portable.retry import Verdict
from queuekit._values.clock import Clock
from queuekit._values.errors import LeaseLostError, QueueKitError

_FAILED_STARTS = 3
# A child tells of a timeout itself; after this long it cannot.
_GRACE_S = 1.0


class ChildProcess:
    """One child at a time, replaced when it dies.

    Args:
        start: Starts a process and returns it with the parent's end of its pipe.
        slots: How many jobs of each queue it runs at once.
        settle: Records the verdict of a job.
        extend: Extends the lease of a job.
        lost: Called with the jobs of a child that died, and with those that hung.
        failed: Called when children die before they are ready, again and again.
        timeout_s: How long a job may take; None for no limit.
        clock: Time.
        stop: Called when a handler asks the worker to stop.

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
        timeout_s: Callable[[int, Held], float | None],
        clock: Clock,
        stop: Callable[[], None],
    ) -> None:
        self._start, self._slots = start, slots
        self._timeout_s, self._clock = timeout_s, clock
        self._settle, self._extend, self._lost, self._failed = settle, extend, lost, failed
        self._stop_worker = stop
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._frames: deque[tuple[Connection, bytes]] = deque()
        self._frames_wanted = threading.Condition(self._lock)
        self._deadlines: dict[int, float] = {}
        self._watch = threading.Condition(self._lock)
        self._watcher: threading.Thread | None = None
        self._ended = False
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
        threading.Thread(target=self._write_forever, name="queuekit-child-write", daemon=True).start()

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
            self._watch_over(jobs, queue)
        self._say(connection, pack_jobs(queue, [(job_id, held.message) for job_id, held in jobs]))
        return True

    def await_end(self, batch: Sequence[Held]) -> None:
        """Wait until none of these jobs runs any more, or the worker stops."""
        waiting = set(batch)
        with self._lock:
            while not self._stopping and any(held in waiting for _, held in self._jobs.values()):
                self._changed.wait()

    def submit_alone(self, queue: int, held: Held) -> bool:
        """Give one job to the child when it runs nothing else, and wait until it has ended."""
        with self._lock:
            while not self._stopping and self._alone:
                self._changed.wait()
            self._alone = True  # from here on nobody else begins, so that what runs comes to its end
            while not self._stopping and self._jobs:
                self._changed.wait()
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
        with self._lock:
            self._ended = True
            self._frames_wanted.notify_all()
            self._watch.notify_all()
        if connection is not None:
            connection.close()

    def _replace(self) -> None:
        process, connection = self._start()
        with self._lock:
            self._process, self._connection = process, connection
            late = self._stopping
        if late:
            process.kill()  # `close` may have been here already, and nobody else would end this one

    def _listen_forever(self) -> None:
        while True:
            self._listen()
            with self._lock:
                gone, self._jobs = list(self._jobs.values()), {}
                self._deadlines.clear()
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
            try:
                self._replace()
            except OSError as error:  # no memory, or no process left to have: nobody would run anything any more
                self._failed(error)
                return

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
        elif header["op"] == "stop":
            self._stop_worker()
        elif header["op"] == "hung":
            with self._lock:
                self._hung.update(self._jobs[each][1] for each in header["jobs"] if each in self._jobs)
            self._process.kill()

    def _finish(self, job_id: int, verdict: Verdict) -> None:
        with self._lock:
            job = self._jobs.pop(job_id, None)
            self._deadlines.pop(job_id, None)
            self._changed.notify_all()
        if job is not None:
            self._settle(job[0], job[1], verdict)

    def _answer_extend(self, connection: Connection, header: dict[str, Any]) -> None:
        with self._lock:
            job = self._jobs.get(header["job"])
        code, detail = "", ""
        try:
            if job is None:
                msg = "the lease was lost; stop working on this delivery, somebody else may have it"
                raise LeaseLostError(msg)
            self._extend(job[0], job[1], header["by"])
        except QueueKitError as error:
            code, detail = error.code, str(error)
        answer = {"op": "extended", "request": header["request"], "code": code, "detail": detail}
        self._say(connection, pack(answer))

    def _say(self, connection: Connection, frame: bytes) -> None:
        """Have a frame sent. Never blocks: a child that holds the interpreter lock does not read its pipe."""
        with self._lock:
            self._frames.append((connection, frame))
            self._frames_wanted.notify()

    def _write_forever(self) -> None:
        while True:
            with self._lock:
                while not self._frames and not self._ended:
                    self._frames_wanted.wait()
                if self._ended:
                    return
                connection, frame = self._frames.popleft()
            # When the child died, the reader sees that too, and gives its jobs back.
            with suppress(OSError):
                connection.send_bytes(frame)

    def _watch_over(self, jobs: Sequence[tuple[int, Held]], queue: int) -> None:
        """Set the times at which jobs must have ended. Lock held."""
        now = self._clock.monotonic()
        for job_id, held in jobs:
            timeout_s = self._timeout_s(queue, held)
            if timeout_s is not None:
                self._deadlines[job_id] = now + timeout_s + _GRACE_S
        if self._deadlines and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch_forever, name="queuekit-child-timeouts", daemon=True)
            self._watcher.start()
        self._watch.notify()

    def _watch_forever(self) -> None:
        """Kill a child that should have told of a timeout and did not, as it holds the interpreter lock."""
        with self._lock:
            while not self._ended:
                now = self._clock.monotonic()
                first = min(self._deadlines, key=self._deadlines.__getitem__, default=None)
                if first is not None and self._deadlines[first] <= now:
                    # All that are late: a batch hangs as one.
                    self._hung.update(self._jobs[each][1] for each, at in self._deadlines.items() if at <= now)
                    self._deadlines.clear()
                    self._process.kill()
                    continue
                self._clock.wait(self._watch, None if first is None else self._deadlines[first] - now)
