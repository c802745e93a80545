# SPDX-License-Identifier: Apache-2.0
"""Runs queuekit and its peer alternately in one process, and reports ratios: times alone say little elsewhere."""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Part = Callable[[int], float]
"""Moves that many messages, and returns the seconds that the measured piece of it took."""


@dataclass(frozen=True)
class Contest:
    """One comparison: the same work done by the peer and by queuekit.

    Attributes:
        name: What is done.
        peer: The bare way.
        ours: The same through queuekit.
        target: The ratio to reach, queuekit's throughput over the peer's; None where none is set.
        share: Part of ``--messages`` that this contest moves, where messages are large or slow.
    """

    name: str
    peer: Part
    ours: Part
    target: float | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Result:
    """What a contest gave. Microseconds are medians per message."""

    name: str
    messages: int
    peer_us: float
    ours_us: float
    ratio: float
    lowest: float
    highest: float
    target: float | None

    def __str__(self) -> str:
        target = f"  (target {self.target:g})" if self.target is not None else ""
        return (
            f"{self.name:<34} ratio {self.ratio:.2f}  [{self.lowest:.2f} to {self.highest:.2f}]{target}"
            f"   bare {self.peer_us:.2f} us, queuekit {self.ours_us:.2f} us per message"
        )


def arguments(description: str, *, messages: int, rounds: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--messages", type=int, default=messages, help="messages per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--profile", action="store_true", help="also show where the time goes, thread by thread")
    parser.add_argument("--only", default="", help="only what has this in its name")
    return parser


def compare(contests: Sequence[Contest], options: argparse.Namespace) -> list[Result]:
    """Run every chosen contest, print its ratio, and profile both sides where asked to."""
    results = []
    for contest in contests:
        if options.only not in contest.name:
            continue
        count = max(1, int(options.messages * contest.share))
        results.append(_run(contest, count, options.rounds))
        if not options.json:
            print(results[-1], flush=True)
        if options.profile:
            profile(f"{contest.name}: bare", contest.peer, count)
            profile(f"{contest.name}: queuekit", contest.ours, count)
    if options.json:
        print(json.dumps([asdict(each) for each in results], indent=2))
    return results


def _run(contest: Contest, count: int, rounds: int) -> Result:
    contest.peer(count)
    contest.ours(count)
    pairs = [(contest.peer(count), contest.ours(count)) for _ in range(max(1, rounds))]
    ratios = [peer / ours for peer, ours in pairs]
    return Result(
        name=contest.name,
        messages=count,
        peer_us=median(peer for peer, _ in pairs) / count * 1e6,
        ours_us=median(ours for _, ours in pairs) / count * 1e6,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        target=contest.target,
    )


def begin() -> float:
    """The time, once everything is collected: what was made before is not the cost of what is measured."""
    gc.collect()
    return time.perf_counter()


def profile(title: str, part: Part, count: int, *, lines: int = 25) -> None:
    """CPU seconds of each thread in one run, then the calls of each thread in another."""
    cpu: dict[str, float] = defaultdict(float)
    with _in_every_thread(lambda name, run: _timed(cpu, name, run)):
        began = time.thread_time()
        part(count)
        cpu["(the calling thread)"] += time.thread_time() - began
    print(f"\n--- {title}: CPU by thread, microseconds per message", file=sys.stderr)
    for name, seconds in sorted(cpu.items(), key=lambda each: -each[1]):
        print(f"{seconds / count * 1e6:9.2f}  {name}", file=sys.stderr)
    profiles: dict[str, list[cProfile.Profile]] = defaultdict(list)
    with _in_every_thread(lambda name, run: _profiled(profiles, name, run)):
        _profiled(profiles, "(the calling thread)", lambda: part(count))
    for name, made in profiles.items():
        print(f"\n--- {title}: {name}", file=sys.stderr)
        stats = pstats.Stats(*made, stream=sys.stderr).sort_stats("tottime")
        stats.print_stats(lines)


def _timed(cpu: dict[str, float], name: str, run: Callable[[], None]) -> None:
    run()
    cpu[name] += time.thread_time()


def _profiled(profiles: dict[str, list[cProfile.Profile]], name: str, run: Callable[[], Any]) -> None:
    each = cProfile.Profile()
    profiles[name].append(each)
    each.runcall(run)


@contextmanager
def _in_every_thread(around: Callable[[str, Callable[[], None]], None]) -> Any:
    """Have every thread that starts meanwhile run inside ``around``. Threads of one role share a name."""
    original = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        role = "-".join(thread.name.split("-")[:2])
        around(role, lambda: original(thread))

    threading.Thread.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.run = original  # type: ignore[method-assign]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
