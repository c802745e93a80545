# SPDX-License-Identifier: Apache-2.0
"""What an app's producers and workers counted, by queue, over all of its runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from queuekit._engine.tally import RECEIVED, SENT, Timing, read_only, summed
from queuekit._portable.producer import Producer

_ZEROS = dict.fromkeys((*SENT, *RECEIVED), 0)
_NO_TIME = {"queue_age": Timing(), "handler_time": Timing()}


class Counted(Protocol):
    """One queue that messages are taken from, or pushed to."""

    def counts(self) -> Mapping[str, int]:
        """The names of `RECEIVED`, and those that the log uses."""
        ...

    def timings(self) -> Mapping[str, Timing]:
        """``queue_age`` and ``handler_time``."""
        ...


class Figures:
    """Adds up by queue what is open now and what has ended.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._producers: list[tuple[str, Producer[Any]]] = []
        self._intakes: list[tuple[str, Counted]] = []
        self._pipes: list[tuple[str, Counted]] = []
        self._ended: dict[str, Mapping[str, int]] = {}
        self._ended_timings: dict[str, Mapping[str, Timing]] = {}

    def watch(self, queue: str, producer: Producer[Any]) -> None:
        """Count what this producer sends to a queue, too."""
        with self._lock:
            self._producers.append((queue, producer))

    def watch_pipe(self, queue: str, pipe: Counted) -> None:
        """Count what is pushed to a queue's handlers, too."""
        with self._lock:
            self._pipes.append((queue, pipe))

    def begin_run(self, intakes: Iterable[tuple[str, Counted]]) -> None:
        """Count what is received here from now on; the run before this one has ended."""
        with self._lock:
            for queue, intake in self._intakes:
                self._end(queue, intake.counts())
                self._ended_timings[queue] = summed([self._ended_timings.get(queue, {}), intake.timings()])
            self._intakes = list(intakes)

    def producers_closed(self) -> None:
        """Nothing will be sent any more by the producers that were watched."""
        with self._lock:
            for queue, producer in self._producers:
                self._end(queue, producer.counts())
            self._producers = []

    def counts(self, queues: Iterable[str]) -> Mapping[str, Mapping[str, int]]:
        """By queue, the names of `SENT` and `RECEIVED`, and those that the log uses."""
        with self._lock:
            found = {queue: [_ZEROS, self._ended.get(queue, {})] for queue in queues}
            for queue, producer in self._producers:
                found[queue].append(producer.counts())
            for queue, taken in (*self._intakes, *self._pipes):
                found[queue].append(taken.counts())
        return MappingProxyType({queue: read_only(*parts) for queue, parts in found.items()})

    def timings(self, queues: Iterable[str]) -> Mapping[str, Mapping[str, Timing]]:
        """By queue, ``queue_age`` and ``handler_time``."""
        with self._lock:
            found = {queue: [_NO_TIME, self._ended_timings.get(queue, {})] for queue in queues}
            for queue, taken in (*self._intakes, *self._pipes):
                found[queue].append(taken.timings())
        return MappingProxyType({queue: MappingProxyType(summed(parts)) for queue, parts in found.items()})

    def _end(self, queue: str, counts: Mapping[str, int]) -> None:
        # What nobody had settled when it ended comes back to the queue with the end of its lease.
        open_still = counts.get("in_flight", 0)
        given_up = {"lost": open_still, "in_flight": -open_still}
        self._ended[queue] = read_only(self._ended.get(queue, {}), counts, given_up if open_still else {})
