# SPDX-License-Identifier: Apache-2.0
"""Judges a run by its history: was a message lost, made up, early, with two holders at once, or out of order?

After Jepsen's total-queue checker. Write a history while the run goes on (`History`, `Recorder`), let the
run drain, and ask:

```python
from queuekit.testing.oracle import History, check

history = History.in_memory()
history.send("order-1").ok()
with history.handling("order-1", attempt=1):
    pass  # the work
check(history.records()).assert_ok()
```

``python -m queuekit.testing.oracle FILE`` judges a file and prints the verdict as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeAlias

from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit.testing.histories import Life, lives
from queuekit.testing.history import Delivered, History, Pending, Record, read_history
from queuekit.testing.recorder import Recorder

__all__ = [
    "Delivered",
    "Expectations",
    "History",
    "Pending",
    "Problem",
    "Record",
    "Recorder",
    "Report",
    "Verdict",
    "check",
    "kept_history",
    "read_history",
]

Verdict: TypeAlias = Literal[
    "lost", "unexpected", "unexplained", "early", "overlap", "disorder", "key_overlap", "settled_twice", "stale"
]

_SHOWN = 20
FOLDER_VARIABLE = "QUEUEKIT_HISTORIES"
"""Names the folder where the histories of failing runs are kept."""


class Problem(NamedTuple):
    """One thing that must not happen.

    Attributes:
        verdict: What it is.
        message: The message.
        at: When, in monotonic seconds.
        detail: What was seen.
    """

    verdict: Verdict
    message: str
    at: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What the queue promises, so that nothing else is called a problem.

    Attributes:
        tolerance_s: How far the clocks of those who wrote the history may be apart.
        unexplained: Whether a delivery may be repeated for no reason that the history shows.
        after_ack: Whether a message may come again after its ack, and be finished again.
        overlap: Whether a message may have two holders at once.
        stale: Whether a holder may settle after the message went to another one. An ack that was answered after
            the lease's end is then no proof that the message was removed.
        early: Whether a message may come before it is due.
        order: Whether the messages of a key come first in the order in which each sender sent them.
        one_per_key: Whether at most one message of a key is leased at any time.
        kill_ends_lease: Whether the leases of a killed worker end with it.
    """

    tolerance_s: float = 0.0
    unexplained: bool = False
    after_ack: bool = False
    overlap: bool = False
    stale: bool = False
    early: bool = False
    order: bool = True
    one_per_key: bool = True
    kill_ends_lease: bool = False

    @classmethod
    def of(cls, can: Capabilities, *, tolerance_s: float = 0.0) -> Self:
        """What a queue with these capabilities promises."""
        return cls(
            tolerance_s=tolerance_s,
            unexplained=can.redelivers_unasked,
            after_ack=can.redelivers_unasked,
            overlap=can.fencing == "none" or can.redelivers_unasked,
            stale=can.fencing != "strict",
            order=can.ordering != "none",
            one_per_key=can.one_in_flight_per_key,
            kill_ends_lease=can.lease == "connection",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to, message by message.

    Attributes:
        attempted: Messages whose sending was begun.
        acknowledged: Messages that the queue accepted.
        delivered: Messages that were delivered at least once.
        ok: Messages that were accepted, delivered, and finished (acked, or dead-lettered).
        deliveries: Deliveries in all.
        lost: Messages that were accepted, never finished, and left over nowhere.
        unexpected: Messages that were delivered and never sent.
        recovered: Messages that were delivered though nobody knew whether they had been sent.
        left_over: Messages that are still in a queue, as the caller said.
        duplicated: Deliveries that followed another one of the same message.
        explained: Those of them that had a reason, by reason: ``retry``, ``release``, ``kill``, ``expiry``,
            ``lost``, ``unknown`` or ``resend``.
        unexplained: Those that had none.
        early: Deliveries before the message was due.
        overlap: Deliveries while another holder's lease ran.
        disorder: First deliveries before the first delivery of a message of the key that was sent earlier.
        key_overlap: Deliveries while another message of the key was leased.
        stale: Settlements that were done for a holder who had lost the message.
        settled_twice: Messages that were finished more often than they were sent.
        bound: How many duplicates the kills can explain: the messages that were held by killed workers.
        longest_redelivery_s: Longest time from a message's becoming free again to its next delivery.
        longest_gap_s: Longest time between two deliveries, of whatever messages.
        problems: Everything that must not happen, in order of time.
    """

    attempted: int = 0
    acknowledged: int = 0
    delivered: int = 0
    ok: int = 0
    deliveries: int = 0
    lost: int = 0
    unexpected: int = 0
    recovered: int = 0
    left_over: int = 0
    duplicated: int = 0
    explained: Mapping[str, int]
    unexplained: int = 0
    early: int = 0
    overlap: int = 0
    disorder: int = 0
    key_overlap: int = 0
    stale: int = 0
    settled_twice: int = 0
    bound: int = 0
    longest_redelivery_s: float = 0.0
    longest_gap_s: float = 0.0
    problems: Sequence[Problem] = ()

    def assert_ok(self) -> None:
        """Fail the test that asks, where there is a problem.

        Raises:
            AssertionError: There is; it shows the first ones, and the figures.
        """
        if not self.problems:
            return
        shown = [f"{each.verdict}: {each.message} at {each.at:.6f}: {each.detail}" for each in self.problems]
        more = [f"... and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        raise AssertionError("\n".join([*shown[:_SHOWN], *more, self.to_json()]))

    def to_json(self) -> str:
        """The figures as one JSON object, without the problems."""
        return json.dumps(
            {
                each.name: dict(self.explained) if each.name == "explained" else getattr(self, each.name)
                for each in fields(self)
                if each.name != "problems"
            }
        )


def check(
    records: Iterable[Record], *, expect: Expectations | None = None, left_over: Collection[str] = ()
) -> Report:
    """Judge a history.

    Args:
        records: The whole history, of all processes, in any order.
        expect: What the queue promises; everything, by default.
        left_over: Messages that were seen in the queue, or among its dead letters, after the run; they are
            not lost.
    """
    expect = expect or Expectations()
    ordered = sorted(records, key=lambda record: record.at)  # stable: equal times stay in order of writing
    found = lives(ordered)
    problems = [
        *_lost(found, set(left_over)),
        *(problem for life in found.values() for problem in _judge(life, expect)),
        *_judge_keys(found.values(), expect),
    ]
    problems.sort(key=lambda problem: problem.at)
    return _report(ordered, found, problems, expect, set(left_over))


def _lost(found: Mapping[str, Life], left_over: Collection[str]) -> Iterator[Problem]:
    for message, life in found.items():
        if life.accepted and not life.finished and message not in left_over:
            last = life.deliveries[-1].record if life.deliveries else None
            seen = "never delivered" if last is None else f"last delivered to {last.worker!r} at {last.at:.6f}"
            yield Problem("lost", message, life.sends[0].invoked_at, f"accepted, not finished, {seen}")


def _judge(life: Life, expect: Expectations) -> Iterator[Problem]:
    tolerance_s = expect.tolerance_s
    if life.deliveries and not any(send.possible for send in life.sends):
        yield _problem("unexpected", life, 0, "delivered, and never sent" if not life.sends else "its send failed")
    for index in range(len(life.deliveries)):
        if not expect.unexplained and life.reason(index, late=not expect.stale) == "":
            yield _problem("unexplained", life, index, "delivered again for no reason that the history shows")
        early_s = life.due_at(index) - life.deliveries[index].record.at - tolerance_s
        if not expect.early and early_s > 0:
            yield _problem("early", life, index, f"{early_s:.6f} s before it was due")
        if not expect.overlap and life.overlaps(index, tolerance_s, kill_ends=expect.kill_ends_lease):
            yield _problem("overlap", life, index, f"while {life.deliveries[index - 1].record.worker!r} held it")
    yield from _judge_settlements(life, expect)


def _judge_settlements(life: Life, expect: Expectations) -> Iterator[Problem]:
    if not expect.stale:
        for stale in life.stale():
            yield Problem("stale", life.message, stale.at, f"{stale.action} by a holder who had lost it")
    finishes = life.finishes(late=not expect.stale)
    if not expect.after_ack and finishes > max(1, sum(send.possible for send in life.sends)):
        yield _problem("settled_twice", life, -1, f"finished {finishes} times")


def _problem(verdict: Verdict, life: Life, index: int, detail: str) -> Problem:
    record = life.deliveries[index].record
    return Problem(verdict, life.message, record.at, f"{detail}; delivery to {record.worker!r}")


def _judge_keys(found: Iterable[Life], expect: Expectations) -> Iterator[Problem]:
    by_key: dict[str, list[Life]] = {}
    for life in found:
        if life.key is not None:
            by_key.setdefault(life.key, []).append(life)
    for key, group in by_key.items():
        if expect.order:
            yield from _disorder(key, group)
        if expect.one_per_key:
            yield from _key_overlaps(key, group, expect)


def _disorder(key: str, group: Sequence[Life]) -> Iterator[Problem]:
    by_sender: dict[str, list[Life]] = {}
    for life in group:
        # Only where a first sending is sure is its place in the order.
        if life.sends and life.deliveries and life.sends[0].outcome == "ok":
            by_sender.setdefault(life.sends[0].worker, []).append(life)
    for lives_of_sender in by_sender.values():
        latest = 0.0
        for life in lives_of_sender:  # in order of sending, as the history is
            first_at = life.deliveries[0].record.at
            if first_at < latest:
                yield Problem("disorder", life.message, first_at, f"came before an earlier message of key {key!r}")
            latest = max(latest, first_at)


def _key_overlaps(key: str, group: Sequence[Life], expect: Expectations) -> Iterator[Problem]:
    spans = sorted(
        (life.deliveries[index].record.at, life.free_at(index, kill_ends=expect.kill_ends_lease), life.message)
        for life in group
        for index in range(len(life.deliveries))
    )
    held_until, holder = 0.0, ""
    for at, free_at, message in spans:
        if message != holder and at < held_until - expect.tolerance_s:
            yield Problem("key_overlap", message, at, f"{holder} of key {key!r} was leased")
        if free_at >= held_until:
            held_until, holder = free_at, message


def _report(
    ordered: Sequence[Record],
    found: Mapping[str, Life],
    problems: Sequence[Problem],
    expect: Expectations,
    left_over: Collection[str],
) -> Report:
    verdicts = Counter(problem.verdict for problem in problems)
    reasons = Counter(
        life.reason(index, late=not expect.stale)
        for life in found.values()
        for index in range(1, len(life.deliveries))
    )
    times = [record.at for record in ordered if record.operation == "deliver"]
    return Report(
        attempted=sum(bool(life.sends) for life in found.values()),
        acknowledged=sum(life.accepted for life in found.values()),
        delivered=sum(bool(life.deliveries) for life in found.values()),
        ok=sum(bool(life.accepted and life.deliveries and life.finished) for life in found.values()),
        deliveries=len(times),
        lost=verdicts["lost"],
        unexpected=verdicts["unexpected"],
        recovered=sum(life.recovered for life in found.values()),
        left_over=len(left_over),
        duplicated=reasons.total(),
        explained={reason: number for reason, number in sorted(reasons.items()) if reason},
        unexplained=reasons[""],
        early=verdicts["early"],
        overlap=verdicts["overlap"],
        disorder=verdicts["disorder"],
        key_overlap=verdicts["key_overlap"],
        stale=verdicts["stale"],
        settled_twice=verdicts["settled_twice"],
        bound=sum(life.held_at_kills for life in found.values()),
        longest_redelivery_s=max((life.longest_redelivery_s() for life in found.values()), default=0.0),
        longest_gap_s=max((after - before for before, after in pairwise(times)), default=0.0),
        problems=tuple(problems),
    )


@contextmanager
def kept_history(name: str, *, seed: int, clock: Clock | None = None) -> Iterator[tuple[History, Path]]:
    """A history in a file that is removed when the block ends well, and kept and named when it fails.

    Args:
        name: Of the run; part of the file's name.
        seed: Of the run; part of the file's name, and of the failure's note.
        clock: Time.

    Yields:
        The history, and its file, to which other processes may append. Kept files lie in the folder that
        the environment variable ``QUEUEKIT_HISTORIES`` names, else in ``queuekit-histories`` among the
        temporary files.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir()) / "queuekit-histories")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}-{os.getpid()}.jsonl"
    path.unlink(missing_ok=True)
    history = History.in_lines(path, clock=clock)
    try:
        yield history, path
    except BaseException as error:
        error.add_note(f"seed {seed}; the history is kept in {path}")
        raise
    else:
        path.unlink()
    finally:
        history.close()


def main(arguments: Sequence[str]) -> int:
    """Judge the file that is named: prints the figures as JSON, problems on standard error; 1 where there are any."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m queuekit.testing.oracle FILE\n")
        return 2
    report = check(read_history(arguments[0]))
    sys.stdout.write(report.to_json() + "\n")
    for each in report.problems:
        sys.stderr.write(f"{each.verdict}: {each.message} at {each.at:.6f}: {each.detail}\n")
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
