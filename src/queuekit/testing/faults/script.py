# SPDX-License-Identifier: Apache-2.0
"""A plan of what happens at each call, and the record of the calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from queuekit.backend import ErrorClass

Verb: TypeAlias = Literal[
    "probe",
    "send",
    "receive",
    "settle",
    "create",
    "delete",
    "exists",
    "purge",
    "stats",
    "peek",
    "redrive",
    "cancel",
    "pause",
    "resume",
    "is_paused",
    "schedule_http",
]
Answers: TypeAlias = Sequence[Any]
Proceed: TypeAlias = Callable[[Sequence[Any]], Answers]


class Call(NamedTuple):
    """One call that reached the faulty backend.

    Attributes:
        verb: Which method.
        batch: Its entries; empty for a call that has none.
        queue: The redacted URL of the queue.
        ended: Set when the call is interrupted, or its backend is closed.
    """

    verb: Verb
    batch: Sequence[Any]
    queue: str
    ended: threading.Event


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
        self.what: ErrorClass = what


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
