# SPDX-License-Identifier: Apache-2.0
"""The demo's ledger, and what can be told from it. Pure: bytes in, figures out.

Workers append one line for each file that they handled, so a killed worker cannot take back what it did,
and nothing here has to be counted while it happens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

_RATE_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One handled message.

    Attributes:
        message_id: The message.
        file: The file that it names.
        attempt: Which attempt this was, from 1.
        redriven: How often the message had come back from the dead-letter queue.
        pid: The worker's process.
        at: When it was handled, on the host's monotonic clock, in seconds.
        digest: The file's digest; empty for an attempt that failed.
    """

    message_id: str
    file: str
    attempt: int
    redriven: int
    pid: int
    at: float
    digest: str

    @property
    def done(self) -> bool:
        """Whether the attempt succeeded."""
        return bool(self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A worker that was killed.

    Attributes:
        pid: Its process.
        at: When, on the host's monotonic clock, in seconds.
        leased: Every message that the queue showed as leased just then, to anybody: id to attempt.
    """

    pid: int
    at: float
    leased: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run of the demo came to.

    Attributes:
        sent: Messages that the queue accepted.
        done: Messages that were handled well at least once.
        retried: Attempts that followed a failed one.
        killed: Workers killed.
        in_flight: Messages that the killed workers held.
        recovered: Those of them that another worker handled afterwards, the killed one not having finished.
        dead: Messages that were in the dead-letter queue.
        redriven: Those of them that came back from there and were handled well.
        lost: Messages that were never handled well and are in no queue either.
        left_over: Messages that are still in the queue or its dead-letter queue.
        duplicates: Times that a message was handled well after it had been already.
        per_second: Messages a second, from the first send until nine in ten were done; the rest wait
            for a lease or a redrive by design.
        p50_s: Median of the seconds from sending to done.
        p99_s: The 99th percentile of the same.
    """

    sent: int
    done: int
    retried: int
    killed: int
    in_flight: int
    recovered: int
    dead: int
    redriven: int
    lost: int
    left_over: int
    duplicates: int
    per_second: float
    p50_s: float
    p99_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or left over."""
        return not (self.lost or self.left_over)


def write_line(line: Line) -> bytes:
    """A line as it stands in the ledger; to be appended by one write."""
    return json.dumps(asdict(line)).encode("ascii") + b"\n"


def read_lines(data: bytes) -> tuple[list[Line], bytes]:
    """The complete lines of a piece of the ledger, and the start of the next one."""
    *complete, rest = data.split(b"\n")
    return [Line(**json.loads(each)) for each in complete], rest


def held_by(kill: Kill, lines: Sequence[Line]) -> set[str]:
    """The messages that a killed worker held.

    A message that was leased then and was handled in that very attempt by somebody else was held by them;
    any other was the killed worker's.
    """
    others = {(each.message_id, each.attempt) for each in lines if each.pid != kill.pid and not each.redriven}
    return {message_id for message_id, attempt in kill.leased.items() if (message_id, attempt) not in others}


def unfinished_by(kill: Kill, lines: Sequence[Line]) -> set[str]:
    """Those of the messages that a killed worker held which it had not handled well."""
    return held_by(kill, lines) - {each.message_id for each in lines if each.done and each.pid == kill.pid}


def summarize(
    lines: Sequence[Line],
    *,
    sent: Mapping[str, float],
    kills: Sequence[Kill],
    dead: Collection[str],
    left_over: Collection[str],
) -> Summary:
    """Compute the figures of a run.

    Args:
        lines: The whole ledger.
        sent: Message id to the time just before it was sent, on the monotonic clock.
        kills: The workers that were killed.
        dead: Ids that were seen in the dead-letter queue.
        left_over: Ids that are still in the queue or its dead-letter queue.
    """
    times = Counter(each.message_id for each in lines if each.done)
    first_done = _first_done(lines)
    latencies = sorted(at - sent[message_id] for message_id, at in first_done.items() if message_id in sent)
    # As sets: a message may seem to be held by two that were killed one after the other.
    held = set[str]().union(*(held_by(kill, lines) for kill in kills))
    unfinished = set[str]().union(*(unfinished_by(kill, lines) for kill in kills))
    return Summary(
        sent=len(sent),
        done=len(times),
        retried=_count_retries(lines),
        killed=len(kills),
        in_flight=len(held),
        recovered=len(unfinished & set(times)),
        dead=len(dead),
        redriven=len({each.message_id for each in lines if each.done and each.redriven}),
        lost=len(set(sent) - set(times) - set(left_over)),
        left_over=len(left_over),
        duplicates=times.total() - len(times),
        per_second=_rate(sorted(first_done.values()), min(sent.values(), default=0.0)),
        p50_s=percentile(latencies, 0.5),
        p99_s=percentile(latencies, 0.99),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; 0 where there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _first_done(lines: Sequence[Line]) -> dict[str, float]:
    first: dict[str, float] = {}
    for each in lines:
        if each.done:
            first[each.message_id] = min(each.at, first.get(each.message_id, each.at))
    return first


def _count_retries(lines: Sequence[Line]) -> int:
    # Attempts start anew after a redrive, so an attempt has its predecessor in the same life only.
    failed = {(each.message_id, each.redriven, each.attempt) for each in lines if not each.done}
    return sum((each.message_id, each.redriven, each.attempt - 1) in failed for each in lines)


def _rate(done: Sequence[float], start: float) -> float:
    count = int(len(done) * _RATE_SHARE)
    took_s = done[count - 1] - start if count else 0.0
    return count / took_s if took_s > 0 else 0.0
