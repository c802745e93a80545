# SPDX-License-Identifier: Apache-2.0
"""Faults at the backend's answer, by a script: what a service, a network or a bad backend can do to the engine.

Put a `FaultyOpener` in the place of an opener, and every backend that it opens follows the script:

```python
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.testing.faults import FaultyOpener, Script, raise_after, unavailable

script = Script()
script.on("send", raise_after(unavailable()))  # the first send is carried out, its answer is lost
opener = FaultyOpener(Opener(SystemClock()), script, max_send_batch=10)
```
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from queuekit._portable.link import BackendOpener
from queuekit._values.clock import Clock
from queuekit._values.url import QueueURL
from queuekit.backend import (
    Admin,
    Backend,
    Cancellable,
    Capabilities,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    Interruptible,
    OutgoingMessage,
    Peekable,
    QueueStats,
    Redrivable,
    SendOutcome,
    Settlement,
    SettleOutcome,
    StoredMessage,
    Waitable,
)

Verb: TypeAlias = Literal["probe", "send", "receive", "settle", "redrive"]
Answers: TypeAlias = Sequence[Any]
Proceed: TypeAlias = Callable[[Sequence[Any]], Answers]

_HOLD_LIMIT_S = 30.0


class Call(NamedTuple):
    """One call that reached the faulty backend.

    Attributes:
        verb: Which method.
        batch: Its entries; empty for a receive.
        queue: The redacted URL of the queue.
    """

    verb: Verb
    batch: Sequence[Any]
    queue: str


class Step(Protocol):
    """What happens at one call: return the answer, raise, or go on by ``proceed``."""

    def __call__(self, call: Call, proceed: Proceed, /) -> Answers:
        """Stand between the engine and the real backend."""
        ...


class InjectedFault(Exception):  # noqa: N818  it is what a service does, not an error of ours
    """Raised by a scripted step; classified as its script says.

    Args:
        what: The class that `Backend.classify` answers.
    """

    def __init__(self, what: ErrorClass) -> None:
        super().__init__(what.detail or what.code.value)
        self.what = what


class Script:
    """A plan of faults per verb, and a record of every call.

    Concurrency:
        Safe from any thread. Steps of one verb are taken in the order in which calls begin.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[Verb, deque[Step]] = {}
        self._always: dict[Verb, Step] = {}
        self._calls: list[Call] = []
        self._answered: list[Call] = []

    def on(self, verb: Verb, *steps: Step) -> Script:
        """Let each of the next calls of ``verb`` go through one of these steps; later calls go unharmed."""
        with self._lock:
            self._steps.setdefault(verb, deque()).extend(steps)
        return self

    def always(self, verb: Verb, step: Step | None) -> Script:
        """Let every call of ``verb`` that has no step of its own go through this one; None ends that."""
        with self._lock:
            if step is None:
                self._always.pop(verb, None)
            else:
                self._always[verb] = step
        return self

    def calls(self, verb: Verb | None = None) -> list[Call]:
        """Every call so far, or those of one verb."""
        with self._lock:
            return [each for each in self._calls if verb in {None, each.verb}]

    def answered(self, verb: Verb) -> list[Call]:
        """Every call of the verb that has returned, in the order of their answers."""
        with self._lock:
            return [each for each in self._answered if verb == each.verb]

    def forget_calls(self) -> None:
        """Begin a new record."""
        with self._lock:
            self._calls.clear()
            self._answered.clear()

    def run(self, call: Call, proceed: Proceed) -> Answers:
        """Record one call and take it through its step."""
        with self._lock:
            self._calls.append(call)
            steps = self._steps.get(call.verb)
            step = steps.popleft() if steps else self._always.get(call.verb)
        answers = proceed(call.batch) if step is None else step(call, proceed)
        with self._lock:
            self._answered.append(call)
        return answers


def unavailable(*, sent: Literal["no", "maybe"] = "maybe") -> ErrorClass:
    """The service could not be reached, or its answer was lost."""
    return ErrorClass(ErrorCode.UNAVAILABLE, retryable=True, scope="connection", sent=sent)


def refused() -> ErrorClass:
    """The service declined this entry for good."""
    return ErrorClass(ErrorCode.REFUSED, sent="no")


def as_is(call: Call, proceed: Proceed) -> Answers:
    """A step that does no harm, for a call before the one that is to fail."""
    return proceed(call.batch)


def raise_before(what: ErrorClass) -> Step:
    """Raise, and do nothing."""

    def step(_call: Call, _proceed: Proceed) -> Answers:
        raise InjectedFault(what)

    return step


def raise_after(what: ErrorClass) -> Step:
    """Carry the call out, then lose its answer."""

    def step(call: Call, proceed: Proceed) -> Answers:
        proceed(call.batch)
        raise InjectedFault(what)

    return step


def throttle(retry_after_s: float) -> Step:
    """Refuse the whole call for now."""
    return raise_before(ErrorClass(ErrorCode.THROTTLED, True, "queue", "no", retry_after_s))


def fail_entries(positions: Iterable[int], outcome: Callable[[Any], Any]) -> Step:
    """Carry out all but the entries at these positions, and answer those with ``outcome(entry)``."""
    failing = frozenset(positions)

    def step(call: Call, proceed: Proceed) -> Answers:
        kept = [entry for index, entry in enumerate(call.batch) if index not in failing]
        answers = iter(proceed(kept) if kept else ())
        return [outcome(entry) if index in failing else next(answers) for index, entry in enumerate(call.batch)]

    return step


def edit_answer(edit: Callable[[list[Any]], list[Any]]) -> Step:
    """Carry the call out, then change what it answered: drop, repeat, reorder."""

    def step(call: Call, proceed: Proceed) -> Answers:
        return edit(list(proceed(call.batch)))

    return step


def hold(released: threading.Event, reached: threading.Event | None = None) -> Step:
    """Carry the call out, and keep its answer back until ``released`` is set; tells by ``reached``."""

    def step(call: Call, proceed: Proceed) -> Answers:
        answers = proceed(call.batch)
        if reached is not None:
            reached.set()
        released.wait(_HOLD_LIMIT_S)
        return answers

    return step


def hold_before(released: threading.Event, reached: threading.Event) -> Step:
    """Tell by ``reached`` that the call has come, and carry it out once ``released`` is set."""

    def step(call: Call, proceed: Proceed) -> Answers:
        reached.set()
        released.wait(_HOLD_LIMIT_S)
        return proceed(call.batch)

    return step


def do_nothing(answer: Callable[[Any], Any]) -> Step:
    """Claim an answer for every entry without doing anything: a backend that lies."""

    def step(call: Call, _proceed: Proceed) -> Answers:
        return [answer(entry) for entry in call.batch]

    return step


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
        self.script = script
        self._queue = queue
        self._limits = dict(limits)

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
        self.inner.close()

    def _run(self, verb: Verb, batch: Sequence[Any], proceed: Proceed) -> Answers:
        return self.script.run(Call(verb, tuple(batch), self._queue), proceed)

    def _lowered(self, capabilities: Capabilities) -> Capabilities:
        return dataclasses.replace(capabilities, **self._limits)


class _WithAdmin(FaultyBackend):
    def create(self) -> None:
        self.inner.create()

    def delete(self) -> None:
        self.inner.delete()

    def exists(self) -> bool:
        return bool(self.inner.exists())

    def purge(self) -> int | None:
        count: int | None = self.inner.purge()
        return count

    def stats(self) -> QueueStats:
        stats: QueueStats = self.inner.stats()
        return stats


class _WithPeek(FaultyBackend):
    def peek(self, *, limit: int, after: str = "") -> Sequence[StoredMessage]:
        found: Sequence[StoredMessage] = self.inner.peek(limit=limit, after=after)
        return found


class _WithRedrive(FaultyBackend):
    def redrive(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SettleOutcome]:
        return self._run("redrive", batch, lambda entries: self.inner.redrive(entries, timeout_s=timeout_s))


class _WithCancel(FaultyBackend):
    def cancel(self, message_id: str) -> bool:
        return bool(self.inner.cancel(message_id))


class _WithInterrupt(FaultyBackend):
    def interrupt(self) -> None:
        self.inner.interrupt()


class _WithWait(FaultyBackend):
    def wait_for_change(self, timeout_s: float) -> bool:
        return bool(self.inner.wait_for_change(timeout_s))


_ABILITIES: tuple[tuple[Any, type[FaultyBackend]], ...] = (
    (Admin, _WithAdmin),
    (Peekable, _WithPeek),
    (Redrivable, _WithRedrive),
    (Cancellable, _WithCancel),
    (Interruptible, _WithInterrupt),
    (Waitable, _WithWait),
)


def wrap(
    inner: Backend, script: Script, *, queue: str = "", limits: Mapping[str, Any] | None = None
) -> FaultyBackend:
    """Put a backend behind a script, with exactly the optional abilities that it has."""
    abilities = tuple(wrapper for protocol, wrapper in _ABILITIES if isinstance(inner, protocol))
    made: type[FaultyBackend] = type("FaultyBackend", (*abilities, FaultyBackend), {})
    return made(inner, script, queue, limits or {})


class FaultyOpener:
    """An opener whose backends all follow one script.

    Args:
        opener: Opens the real backends.
        script: The plan; a new and empty one by default, which only records.
        **limits: Capabilities to declare lower than they are, such as ``max_send_batch=10``.
    """

    def __init__(self, opener: BackendOpener, script: Script | None = None, **limits: Any) -> None:
        self.script: Script = Script() if script is None else script
        self.clock: Clock = opener.clock
        self._opener = opener
        self._limits = limits

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        """Open the queue and put it behind the script."""
        return wrap(self._opener.open(url, keywords), self.script, queue=str(url), limits=self._limits)

    def close(self) -> None:
        """Close the inner opener."""
        self._opener.close()
