# SPDX-License-Identifier: Apache-2.0
"""A backend behind a script, and an opener whose backends all are."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from queuekit._portable.link import BackendOpener
from queuekit._values.clock import Clock
from queuekit._values.url import QueueURL
from queuekit.backend import (
    Admin,
    Backend,
    Cancellable,
    Capabilities,
    Diagnosable,
    ErrorClass,
    Finding,
    Foreseeing,
    HttpAuth,
    HttpPublishable,
    HttpRequest,
    HttpSchedulable,
    IncomingMessage,
    Interruptible,
    OutgoingMessage,
    Pausable,
    Peekable,
    QueueStats,
    Recreating,
    Redrivable,
    ScheduledRequest,
    SendOutcome,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Support,
    Waitable,
    Wanted,
)
from queuekit.stores import IdempotencyStore
from queuekit.testing.faults.script import Answers, Call, InjectedFault, Proceed, Script, Verb


class FaultyBackend:
    """A backend behind a script. Made by `wrap`, which adds the optional abilities of the inner one.

    Args:
        inner: The real backend.
        script: The plan.
        queue: The queue's redacted URL, for the record.
        limits: Capabilities that are declared lower than they are.
    """

    def __init__(self, inner: Backend, script: Script, queue: str, limits: Mapping[str, Any]) -> None:
        self.inner: Any = inner
        self.script: Script = script
        self._queue = queue
        self._limits = dict(limits)
        self._lock = threading.Lock()
        self._open_calls: dict[threading.Event, Verb] = {}

    @property
    def capabilities(self) -> Capabilities:
        """The inner backend's, lowered."""
        return self._lowered(self.inner.capabilities)

    def probe(self) -> Capabilities:
        """The inner backend's answer, lowered."""
        answer = self._run("probe", (), lambda _batch: [self.inner.probe()])
        return self._lowered(answer[0])

    def size(self, message: OutgoingMessage) -> int:
        """As the inner backend counts."""
        size: int = self.inner.size(message)
        return size

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """By script."""
        return self._run("send", batch, lambda entries: self.inner.send(entries, timeout_s=timeout_s))

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """By script."""
        return self._run(
            "receive",
            (),
            lambda _batch: self.inner.receive(max_messages=max_messages, wait_s=wait_s, lease_s=lease_s),
        )

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """By script."""
        return self._run("settle", batch, lambda entries: self.inner.settle(entries, timeout_s=timeout_s))

    def classify(self, error: BaseException) -> ErrorClass:
        """A fault's own class; else the inner backend's word."""
        if isinstance(error, InjectedFault):
            return dataclasses.replace(error.what, raw=error)
        found: ErrorClass = self.inner.classify(error)
        return found

    def close(self) -> None:
        """Close the inner backend."""
        self._end_calls(frozenset(get_args(Verb)))
        self.inner.close()

    def _run(self, verb: Verb, batch: Sequence[Any], proceed: Proceed) -> Answers:
        call = Call(verb, tuple(batch), self._queue, threading.Event())
        with self._lock:
            self._open_calls[call.ended] = verb
        try:
            return self.script.run(call, proceed)
        finally:
            with self._lock:
                del self._open_calls[call.ended]

    def _ask(self, verb: Verb, function: Callable[[], Any]) -> Any:
        return self._run(verb, (), lambda _batch: [function()])[0]

    def _end_calls(self, verbs: frozenset[Verb]) -> None:
        with self._lock:
            for ended, verb in self._open_calls.items():
                if verb in verbs:
                    ended.set()

    def _lowered(self, capabilities: Capabilities) -> Capabilities:
        return dataclasses.replace(capabilities, **self._limits)


class _WithAdmin(FaultyBackend):
    def create(self) -> None:
        self._ask("create", self.inner.create)

    def delete(self) -> None:
        self._ask("delete", self.inner.delete)

    def exists(self) -> bool:
        return bool(self._ask("exists", self.inner.exists))

    def purge(self) -> int | None:
        count: int | None = self._ask("purge", self.inner.purge)
        return count

    def stats(self) -> QueueStats:
        stats: QueueStats = self._ask("stats", self.inner.stats)
        return stats


class _WithPeek(FaultyBackend):
    def peek(self, *, limit: int, after: str = "", done: bool = False) -> Sequence[StoredMessage]:
        return self._run("peek", (), lambda _batch: self.inner.peek(limit=limit, after=after, done=done))


class _WithRedrive(FaultyBackend):
    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        return self._run("redrive", batch, lambda entries: self.inner.redrive(entries, timeout_s=timeout_s))


class _WithCancel(FaultyBackend):
    def cancel(self, message_id: str) -> bool:
        return bool(self._ask("cancel", lambda: self.inner.cancel(message_id)))


class _WithPause(FaultyBackend):
    def pause(self) -> None:
        self._ask("pause", self.inner.pause)

    def resume(self) -> None:
        self._ask("resume", self.inner.resume)

    def is_paused(self) -> bool:
        return bool(self._ask("is_paused", self.inner.is_paused))


class _WithInterrupt(FaultyBackend):
    def interrupt(self) -> None:
        self._end_calls(frozenset({"receive"}))
        self.inner.interrupt()


class _WithRecreated(FaultyBackend):
    def recreated(self) -> int:
        return int(self.inner.recreated())


class _WithWait(FaultyBackend):
    def wait_for_change(self, timeout_s: float) -> bool:
        return bool(self.inner.wait_for_change(timeout_s))


class _WithDiagnosis(FaultyBackend):
    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        findings: Sequence[Finding] = self.inner.diagnose(wanted)
        return findings


class _WithHttp(FaultyBackend):
    @property
    def http_auth(self) -> HttpAuth:
        auth: HttpAuth = self.inner.http_auth
        return auth

    def as_http(self, message: OutgoingMessage) -> HttpRequest:
        request: HttpRequest = self.inner.as_http(message)
        return request


class _WithSchedule(FaultyBackend):
    def refusal_of(self, auth: HttpAuth) -> str:
        return str(self.inner.refusal_of(auth))

    def size_http(self, request: HttpRequest, auth: HttpAuth) -> int:
        return int(self.inner.size_http(request, auth))

    def schedule_http(self, batch: Sequence[ScheduledRequest], *, timeout_s: float) -> Sequence[SendOutcome]:
        outcomes: Sequence[SendOutcome] = self._run(
            "schedule_http", batch, lambda part: self.inner.schedule_http(part, timeout_s=timeout_s)
        )
        return outcomes


class _WithForesight(FaultyBackend):
    def refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        error: ErrorClass | None = self.inner.refusal(message)
        return error


_ABILITIES: tuple[tuple[Any, type[FaultyBackend]], ...] = (
    (Admin, _WithAdmin),
    (Peekable, _WithPeek),
    (Redrivable, _WithRedrive),
    (Cancellable, _WithCancel),
    (Pausable, _WithPause),
    (Interruptible, _WithInterrupt),
    (Recreating, _WithRecreated),
    (Waitable, _WithWait),
    (Diagnosable, _WithDiagnosis),
    (Foreseeing, _WithForesight),
    (HttpPublishable, _WithHttp),
    (HttpSchedulable, _WithSchedule),
)


_LOWERED: Mapping[Any, str] = {
    Admin: "admin",
    Peekable: "peek",
    Redrivable: "redrive",
    Cancellable: "cancel",
    Pausable: "pause",
}
"""The ability that goes when its capability is lowered to nothing."""


def wrap(
    inner: Backend, script: Script, *, queue: str = "", limits: Mapping[str, Any] | None = None
) -> FaultyBackend:
    """Put a backend behind a script, with the optional abilities that it has, but for those that are lowered."""
    limits = limits or {}
    absent = {protocol for protocol, name in _LOWERED.items() if limits.get(name) in {False, Support.NONE}}
    abilities = tuple(
        wrapper for protocol, wrapper in _ABILITIES if protocol not in absent and isinstance(inner, protocol)
    )
    made: type[FaultyBackend] = type("FaultyBackend", (*abilities, FaultyBackend), {})
    return made(inner, script, queue, limits)


class FaultyOpener:
    """An opener whose backends all follow one script.

    Args:
        opener: Opens the real backends.
        script: The plan; a new and empty one by default, which only records.
        **limits: Capabilities to declare lower than they are, such as ``max_send_batch=10``; with
            ``peek=False`` and its like the ability itself is not there.
    """

    def __init__(self, opener: BackendOpener, script: Script | None = None, **limits: Any) -> None:
        self.script: Script = Script() if script is None else script
        self.clock: Clock = opener.clock
        self._opener = opener
        self._limits = limits

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        """Open the queue and put it behind the script."""
        return wrap(self._opener.open(url, keywords), self.script, queue=str(url), limits=self._limits)

    def open_store(self, url: QueueURL) -> IdempotencyStore:
        """Open a store; the script is about backends."""
        return self._opener.open_store(url)

    def close(self) -> None:
        """Close the inner opener."""
        self._opener.close()
