# SPDX-License-Identifier: Apache-2.0
"""Queues in a directory, one file per message: ``dir:///FOLDER?queue=QUEUE``.

The file's name holds all that changes, so that a message changes its state by one rename: the order of sending,
the attempts, when it is due, until when it is leased and to whom. Its content never changes. Whoever looks or
changes holds the lock of the queue meanwhile, a file too, so that any number of processes can share it.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    Backend,
    BackendSpec,
    Capabilities,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    InvalidURLError,
    Opening,
    OutgoingMessage,
    Rejected,
    SendOutcome,
    Settled,
    Settlement,
    SettleOutcome,
    Support,
    Unsupported,
)

_LOOK_EVERY_S = 0.005
_YEAR_S = 365 * 86400.0
_NOBODY = "-"
_CODES = {
    errno.ENOSPC: ErrorClass(ErrorCode.QUEUE_FULL, retryable=True),
    errno.EDQUOT: ErrorClass(ErrorCode.QUEUE_FULL, retryable=True),
    errno.EACCES: ErrorClass(ErrorCode.ACCESS_DENIED),
    errno.EPERM: ErrorClass(ErrorCode.ACCESS_DENIED),
    errno.EROFS: ErrorClass(ErrorCode.ACCESS_DENIED),
}
_CAPABILITIES = Capabilities(
    queues="implicit",
    durability="disk",
    max_message_bytes=1 << 20,
    max_send_batch=100,
    max_receive=100,
    max_settle_batch=100,
    mixed_settles=True,
    min_lease_s=0.001,
    max_lease_s=43_200.0,
    extend="absolute",
    fencing="strict",
    late_ack_safe=True,
    attempts="exact",
    release_counts=False,
    max_delay_s=_YEAR_S,
    max_retry_delay_s=_YEAR_S,
    redrive=Support.NONE,
    long_poll=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOptions:
    """The options of a URL.

    Attributes:
        sync: Whether a message is on the disk before it is accepted; without, it survives the end of the
            process but not that of the host.
    """

    sync: bool = True


class _State(NamedTuple):
    """What a file's name says of its message. ``due_at`` is 0 for at once, ``holder`` a token or nobody."""

    sequence: int
    attempt: int
    due_at: float
    lease_until: float
    boot: str
    holder: str

    @property
    def name(self) -> str:
        """As a file is called."""
        return " ".join(f"{each:016d}" if index == 0 else str(each) for index, each in enumerate(self))

    @classmethod
    def of(cls, name: str) -> _State:
        """From a file's name."""
        sequence, attempt, due_at, lease_until, boot, holder = name.split()
        return cls(int(sequence), int(attempt), float(due_at), float(lease_until), boot, holder)


class DirectoryBackend:
    """One queue: a directory in the folder of the URL."""

    capabilities = _CAPABILITIES

    def __init__(self, opening: Opening) -> None:
        self._place = Path(opening.url.path, quote(opening.queue, safe="").replace(".", "%2E"))
        self._sync = opening.options.sync
        self._clock = opening.clock
        # A monotonic clock begins anew with each boot: a lease of an earlier one has ended.
        self._boot = hashlib.sha256(self._clock.boot_id().encode()).hexdigest()[:8]
        self._changed = threading.Condition()
        self._changes = self._interrupts = 0
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def probe(self) -> Capabilities:
        """Make the directory, or fail: there is nothing else to find out."""
        with self._locked():
            return _CAPABILITIES

    def size(self, message: OutgoingMessage) -> int:
        """The bytes that the user sees; the encoding has room enough on a disk."""
        texts = [*message.attributes.items(), *message.metadata.items()]
        return len(message.body) + sum(len(name.encode()) + len(value.encode()) for name, value in texts)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:  # noqa: ARG002
        """Write one file for each message."""
        with self._locked() as lock:
            sequence = _count(lock, len(batch))  # first, so that no number is given twice after a crash
            outcomes = [self._store(sequence + index, each) for index, each in enumerate(batch)]
            if self._sync:
                _flush(self._place)
        return outcomes

    def _store(self, sequence: int, message: OutgoingMessage) -> SendOutcome:
        if message.ordering_key or message.dedup_id or message.priority:
            error = ErrorClass(ErrorCode.UNSUPPORTED, sent="no", detail="no keys, dedup ids and priorities here")
            return Rejected(error, message.message_id)
        due_at = self._clock.time() + message.delay_s if message.delay_s else 0.0
        unfinished = self._place / ".unfinished"  # ours alone, as we hold the lock
        with unfinished.open("w", encoding="ascii") as file:
            json.dump(_content(message, self._clock.time()), file)
            file.flush()
            if self._sync:
                os.fsync(file.fileno())
        unfinished.rename(self._place / _State(sequence, 0, due_at, 0.0, _NOBODY, _NOBODY).name)
        return Accepted(message.message_id)

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Rename up to ``max_messages`` files to leased ones, the oldest first; wait where none is ready."""
        deadline, interrupts = self._clock.monotonic() + wait_s, self._interrupts
        if wait_s > 0:
            self._watch()
        while not self._closed.is_set():
            seen = self._changes
            got, next_in_s = self._lease(max_messages, lease_s)
            left_s = deadline - self._clock.monotonic()
            if got or left_s <= 0 or self._interrupts != interrupts:
                return got
            with self._changed:
                if self._changes == seen and not self._closed.is_set():
                    self._clock.wait(self._changed, min(left_s, next_in_s))
            if self._interrupts != interrupts:
                break
        return []

    def _lease(self, most: int, lease_s: float) -> tuple[list[IncomingMessage], float]:
        """Lease what is ready; also how long until something will be."""
        wall, now, next_in_s = self._clock.time(), self._clock.monotonic(), _YEAR_S
        got: list[IncomingMessage] = []
        with self._locked():
            for state in self._states():
                ready_in_s = max(state.lease_until - now if self._is_leased(state) else 0.0, state.due_at - wall)
                if ready_in_s > 0:
                    next_in_s = min(next_in_s, ready_in_s)
                elif len(got) < most:
                    got.append(self._deliver(state, now + lease_s))
        return got, next_in_s

    def _deliver(self, state: _State, until: float) -> IncomingMessage:
        holder = self._clock.token_bytes(16).hex()
        leased = state._replace(attempt=state.attempt + 1, lease_until=until, boot=self._boot, holder=holder)
        content = json.loads((self._place / state.name).read_bytes())
        self._rename(state, leased)
        return IncomingMessage(
            holder,
            content["id"],
            base64.b64decode(content["body"]),
            content["attributes"],
            content["metadata"],
            leased.attempt,
            content["enqueued_at"],
            until,
        )

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:  # noqa: ARG002
        """Remove or rename the files of those that are still leased to the handle."""
        with self._locked() as lock:
            leased = {state.holder: state for state in self._states() if self._is_leased(state)}
            outcomes = [self._settle_one(leased, each) for each in batch]
            _count(lock, 0)
        return outcomes

    def _settle_one(self, leased: dict[str, _State], entry: Settlement) -> SettleOutcome:
        state = leased.get(entry.handle) if isinstance(entry.handle, str) else None
        if entry.action is Action.DEAD:
            return Unsupported("a directory has no dead-letter queue of its own; name one with dead_letter=")
        if state is None:
            return LEASE_LOST
        if entry.action is Action.ACK:
            (self._place / state.name).unlink()
            return SETTLED
        if entry.action is Action.EXTEND:
            until = self._clock.monotonic() + entry.lease_s
            self._rename(state, state._replace(lease_until=until))
            return Settled(lease_until=until)
        attempt = state.attempt - (entry.action is Action.RELEASE)
        due_at = self._clock.time() + entry.delay_s if entry.delay_s else 0.0
        self._rename(state, _State(state.sequence, attempt, due_at, 0.0, _NOBODY, _NOBODY))
        return Settled(applied_delay_s=entry.delay_s)

    def classify(self, error: BaseException) -> ErrorClass:
        """What the file system meant."""
        if not isinstance(error, OSError):
            return ErrorClass(ErrorCode.UNKNOWN)
        return _CODES.get(error.errno or 0, ErrorClass(ErrorCode.UNAVAILABLE, retryable=True))

    def interrupt(self) -> None:
        """End every receive that waits."""
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every receive, and the thread that looks for changes."""
        self._closed.set()
        self.interrupt()
        if self._watcher is not None:
            self._watcher.join()

    @contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        self._place.mkdir(parents=True, exist_ok=True)
        with (self._place / ".lock").open("a+", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back
            yield lock

    def _states(self) -> list[_State]:
        return sorted(_State.of(each.name) for each in self._place.iterdir() if not each.name.startswith("."))

    def _is_leased(self, state: _State) -> bool:
        return state.boot == self._boot and self._clock.monotonic() < state.lease_until

    def _rename(self, old: _State, new: _State) -> None:
        (self._place / old.name).rename(self._place / new.name)

    def _watch(self) -> None:
        """Look for what others change; nothing tells us."""
        with self._changed:
            if self._watcher is None and not self._closed.is_set():
                self._watcher = threading.Thread(target=self._look_forever, daemon=True)
                self._watcher.start()

    def _look_forever(self) -> None:
        last = ""
        while not self._closed.wait(_LOOK_EVERY_S):
            try:
                now = (self._place / ".lock").read_text("ascii")
            except OSError:
                now = ""  # it is not there yet, or no more: look again
            if now != last:
                last = now
                with self._changed:
                    self._changes += 1
                    self._changed.notify_all()


def _count(lock: IO[str], messages: int) -> int:
    """Count messages and the change itself; the number of the first of the messages."""
    lock.seek(0)
    sent, changes = map(int, lock.read().split() or ("0", "0"))
    lock.truncate(0)
    lock.write(f"{sent + messages} {changes + 1}")
    lock.flush()
    return sent + 1


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(message: OutgoingMessage, now: float) -> Mapping[str, Any]:
    return {
        "id": message.message_id,
        "body": base64.b64encode(message.body).decode("ascii"),
        "attributes": dict(message.attributes),
        "metadata": dict(message.metadata),
        "enqueued_at": now,
    }


def _open(opening: Opening) -> Backend:
    url = opening.url
    if url.hosts or url.user is not None or not url.path.strip("/"):
        msg = "a dir URL has a folder and no host; the form is dir:///FOLDER?queue=QUEUE"
        raise InvalidURLError(msg)
    return DirectoryBackend(opening)


SPEC = BackendSpec(open=_open, options=DirectoryOptions, slot="option", forms=("dir:///FOLDER?queue=QUEUE",))
