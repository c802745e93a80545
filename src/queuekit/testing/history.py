# SPDX-License-Identifier: Apache-2.0
"""A run written down: one record before each operation and one after it, in memory or in a file.

Several processes may append to one file, and a ``kill -9`` takes back nothing that was written before it.
`queuekit.testing.oracle` judges what stands here.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

from queuekit._values.clock import Clock, SystemClock
from queuekit._values.outcome import (
    Accepted,
    Duplicate,
    LeaseLost,
    SendOutcome,
    Settled,
    SettleOutcome,
    Unknown,
)

Operation: TypeAlias = Literal["send", "deliver", "settle", "lost", "kill"]
Phase: TypeAlias = Literal["invoke", "ok", "failed", "unknown", "lease_lost"]
SettleAction: TypeAlias = Literal["ack", "retry", "release", "extend", "dead"]

_SQLITE_SUFFIXES = {".db", ".sqlite", ".sqlite3"}


class Record(NamedTuple):
    """One line of a history.

    Attributes:
        at: Monotonic seconds; processes of one host share the scale.
        operation: ``send``, ``deliver`` (a receive brought it, or its handler began), ``settle``, ``lost``
            (the holder learned that its lease is over) or ``kill`` (of ``worker``).
        phase: ``invoke`` before the call; after it ``ok``, ``failed`` (nothing was done), ``lease_lost``,
            or ``unknown``. An invoke without an answer is unknown.
        message: Names the message from its sending to its end: its id, or a number in its payload.
        worker: Who did it.
        call: Joins an answer with its invoke.
        delivery: Joins a settlement with its delivery.
        key: The ordering key.
        delay_s: Of a send, a retry or a release: no earlier than so many seconds after the invoke.
        until: When the lease ends, in monotonic seconds; None where nobody knows.
        attempt: As the delivery said.
        action: Of a settlement.
        held: Of a kill: the messages that the worker held, where that is known.
    """

    at: float
    operation: Operation
    phase: Phase = "ok"
    message: str = ""
    worker: str = ""
    call: str = ""
    delivery: str = ""
    key: str | None = None
    delay_s: float = 0.0
    until: float | None = None
    attempt: int | None = None
    action: str = ""
    held: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """The record as one line; what has its default is left out."""
        default = Record._field_defaults
        fields = zip(self._fields, self, strict=True)
        return json.dumps({name: value for name, value in fields if name not in default or value != default[name]})

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read a line.

        Raises:
            ValueError: It is no record.
        """
        try:
            found = cls(**json.loads(line))
        except TypeError as error:
            msg = f"no record of a history: {line[:80]!r}"
            raise ValueError(msg) from error
        return found if found.held is None else found._replace(held=tuple(found.held))


class Sink(Protocol):
    """Where records go. Safe from any thread."""

    def append(self, records: Sequence[Record]) -> None:
        """Keep these; they are safe from the end of this process when it returns."""
        ...

    def read(self) -> Iterable[Record]:
        """Everything, in the order of writing."""
        ...

    def close(self) -> None:
        """Give back the file. Idempotent."""
        ...


class _Memory:
    def __init__(self) -> None:
        self._records: list[Record] = []

    def append(self, records: Sequence[Record]) -> None:
        self._records.extend(records)

    def read(self) -> list[Record]:
        return list(self._records)

    def close(self) -> None:
        """Nothing to give back."""


class _Lines:
    """A file of JSON lines. Each append is one ``write`` at the end, so that processes do not mix their lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, records: Sequence[Record]) -> None:
        data = "".join(record.to_json() + "\n" for record in records).encode("ascii")
        written = os.write(self._descriptor, data)
        if written != len(data):
            msg = f"{self._path} took {written} of {len(data)} bytes; the history is torn"
            raise OSError(msg)

    def read(self) -> Iterator[Record]:
        with self._path.open("r", encoding="ascii") as lines:
            for line in lines:
                # Who is writing right now, or was killed in it, leaves a last line without its end.
                if line.endswith("\n"):
                    yield Record.from_json(line)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Table:
    """A SQLite file with one row per record, for histories that are queried afterwards."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        self._connection.execute("PRAGMA journal_mode=WAL")
        # Written pages survive the end of the process; only the end of the host could take them.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS record (number INTEGER PRIMARY KEY, at REAL, operation TEXT, message TEXT,"
            " line TEXT)"
        )

    def append(self, records: Sequence[Record]) -> None:
        rows = [(each.at, each.operation, each.message, each.to_json()) for each in records]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO record (at, operation, message, line) VALUES (?, ?, ?, ?)", rows
            )
            self._connection.execute("COMMIT")

    def read(self) -> list[Record]:
        with self._lock:
            rows = self._connection.execute("SELECT line FROM record ORDER BY number").fetchall()
        return [Record.from_json(line) for (line,) in rows]

    def close(self) -> None:
        self._connection.close()


class Pending:
    """A call that has begun. Say once how it ended; never saying it is the same as `unknown`."""

    __slots__ = ("_history", "_invoke")

    def __init__(self, history: History, invoke: Record) -> None:
        self._history, self._invoke = history, invoke

    def ok(self) -> None:
        """It was done."""
        self.end("ok")

    def failed(self) -> None:
        """It is proved that nothing was done."""
        self.end("failed")

    def unknown(self) -> None:
        """Nobody knows."""
        self.end("unknown")

    def answered(self, outcome: SendOutcome | SettleOutcome) -> None:
        """What queuekit's own outcome says."""
        self.end(_phase(outcome), until=outcome.lease_until if isinstance(outcome, Settled) else None)

    def end(self, phase: Phase, *, until: float | None = None) -> None:
        """The same by name; ``until`` is the new end of an extended lease."""
        invoke = self._invoke
        answer = invoke._replace(at=self._history.now(), phase=phase)
        self._history.put([answer if until is None else answer._replace(until=until)])


class Delivered:
    """A delivery that has begun.

    Attributes:
        record: Its record.
    """

    __slots__ = ("_history", "record")

    def __init__(self, history: History, record: Record) -> None:
        self._history = history
        self.record: Record = record

    def settle(self, action: SettleAction, *, delay_s: float = 0.0, until: float | None = None) -> Pending:
        """Its settlement is about to be sent; ``until`` is the end of lease that an extension asks for."""
        return self._history.begin_settle(self.record, action, delay_s=delay_s, until=until)

    def lost(self) -> None:
        """The holder was told that its lease is over."""
        self._history.put([self.record._replace(at=self._history.now(), operation="lost", until=None, attempt=None)])


class History:
    """Writes down what one process does; made by `in_memory`, `in_lines` or `in_table`.

    Args:
        sink: Where records go.
        worker: Names this process or thread in the records; the process's id by default.
        clock: Time. Everything in one history must share its monotonic scale.

    Concurrency:
        Safe from any thread. One per process; several may append to the same file.
    """

    def __init__(self, sink: Sink, *, worker: str = "", clock: Clock | None = None) -> None:
        self._sink = sink
        self._clock: Clock = clock or SystemClock()
        self.worker: str = worker or str(os.getpid())
        # A process that comes after another of the same name must not answer its calls.
        self._mark = self._clock.token_bytes(4).hex()
        self._numbers = count(1)

    @classmethod
    def in_memory(cls, *, worker: str = "", clock: Clock | None = None) -> History:
        """A history of this process only."""
        return cls(_Memory(), worker=worker, clock=clock)

    @classmethod
    def in_lines(cls, path: str | Path, *, worker: str = "", clock: Clock | None = None) -> History:
        """A file of JSON lines, made where there is none; other processes may append to it."""
        return cls(_Lines(Path(path)), worker=worker, clock=clock)

    @classmethod
    def in_table(cls, path: str | Path, *, worker: str = "", clock: Clock | None = None) -> History:
        """A SQLite file, made where there is none; other processes may append to it."""
        return cls(_Table(Path(path)), worker=worker, clock=clock)

    def beside(self, worker: str) -> History:
        """The same history, written by another worker of this process."""
        return History(self._sink, worker=worker, clock=self._clock)

    def now(self) -> float:
        """The time of a record that is made now."""
        return self._clock.monotonic()

    def put(self, records: Sequence[Record]) -> None:
        """Append records as they are; the methods below make them."""
        self._sink.append(records)

    def send(self, message: str, *, key: str | None = None, delay_s: float = 0.0) -> Pending:
        """The message is about to be sent, or sent back from the dead letters."""
        invoke = Record(self.now(), "send", "invoke", message, self.worker, self._name(), key=key, delay_s=delay_s)
        self.put([invoke])
        return Pending(self, invoke)

    def deliver(
        self, message: str, *, attempt: int | None = None, until: float | None = None, key: str | None = None
    ) -> Delivered:
        """A delivery of the message is here."""
        record = Record(self.now(), "deliver", "ok", message, self.worker, "", self._name(), key, 0.0, until, attempt)
        self.put([record])
        return Delivered(self, record)

    def begin_settle(
        self, delivery: Record, action: SettleAction, *, delay_s: float = 0.0, until: float | None = None
    ) -> Pending:
        """A settlement of the delivery that ``delivery`` records is about to be sent."""
        invoke = Record(
            self.now(), "settle", "invoke", delivery.message, self.worker, self._name(), delivery.delivery,
            delay_s=delay_s, until=until, action=action,
        )  # fmt: skip
        self.put([invoke])
        return Pending(self, invoke)

    @contextmanager
    def handling(self, message: str, *, attempt: int | None = None, key: str | None = None) -> Iterator[Delivered]:
        """Around the work of a handler: its begin, and whether it ended well.

        The settlement is then the worker's business, so its outcome is recorded as unknown: finished work
        may come again, and is never called lost.
        """
        delivered = self.deliver(message, attempt=attempt, key=key)
        try:
            yield delivered
        except BaseException:
            delivered.settle("retry").unknown()
            raise
        delivered.settle("ack").unknown()

    def kill(self, worker: str, *, held: Iterable[str] | None = None) -> None:
        """A worker was killed just now; to be called after it is dead.

        Args:
            worker: Its name in the records.
            held: The messages that it held, where the queue can tell. Without it, whatever the worker had
                been delivered may come again.
        """
        known = None if held is None else tuple(sorted(held))
        self.put([Record(self.now(), "kill", worker=worker, held=known)])

    def records(self) -> list[Record]:
        """Everything that stands in the history, also of other processes."""
        return list(self._sink.read())

    def close(self) -> None:
        """Give back the file."""
        self._sink.close()

    def _name(self) -> str:
        return f"{self.worker}-{self._mark}-{next(self._numbers)}"


def read_history(path: str | Path) -> list[Record]:
    """Everything that stands in a history's file, of either form.

    Raises:
        ValueError: A line in it is no record.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(path)
    sink: Sink = _Table(path) if path.suffix in _SQLITE_SUFFIXES else _Lines(path)
    with closing(sink):
        return list(sink.read())


def _phase(outcome: SendOutcome | SettleOutcome) -> Phase:
    if isinstance(outcome, (Accepted, Settled)):
        return "ok"
    if isinstance(outcome, Duplicate):
        # Only where it was found to be its own duplicate does the queue have a message of this name.
        return "ok" if outcome.provider_id == outcome.message_id else "failed"
    if isinstance(outcome, LeaseLost):
        return "lease_lost"
    return "unknown" if isinstance(outcome, Unknown) else "failed"
