# SPDX-License-Identifier: Apache-2.0
"""Processes that write to one SQLite file without a pause: with queuekit's turns, and with SQLite's wait alone.

Each process sends one message, receives one and acknowledges one, each in a transaction of its own, and again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _bench import arguments, percentile
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, OutgoingMessage, Settlement
from queuekit.backends.sqlite import _turns

_CHILD = "--hammer"
_PROCESSES = (1, 3, 8)
_KINDS = ("send", "receive", "ack")


@dataclass(frozen=True)
class Contention:
    """What several processes got done. Milliseconds are those of one call."""

    name: str
    messages: int
    ratio: float
    """Messages a second with turns, over those without."""
    with_turns: dict[str, Any]
    without_turns: dict[str, Any]

    def __str__(self) -> str:
        lines = [f"{self.name:<34} ratio {self.ratio:.2f}"]
        for title, side in (("with turns", self.with_turns), ("without", self.without_turns)):
            cells = [f"{side['per_s']:7.0f} messages/s"]
            cells += [f"{kind} " + "/".join(f"{each:.1f}" for each in side[kind]) for kind in ("send", "ack")]
            lines.append(f"    {title:<12} {', '.join(cells)} ms (p50/p99/max), {side['errors']} errors")
        return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == [_CHILD]:
        hammer(Path(sys.argv[2]), int(sys.argv[3]), turns=sys.argv[4] == "turns")
        return
    options = arguments("processes that write to one SQLite file", messages=2000, rounds=3).parse_args()
    results = []
    for count in _PROCESSES:
        name = f"sqlite, {count} process{'es' * (count > 1)}"
        if options.only in name:
            results.append(compare(name, count, options.messages, max(1, options.rounds)))
            if not options.json:
                print(results[-1], flush=True)
    if options.json:
        print(json.dumps([asdict(each) for each in results], indent=2))


def compare(name: str, processes: int, messages: int, rounds: int) -> Contention:
    pairs = [(run(processes, messages, "turns"), run(processes, messages, "none")) for _ in range(rounds)]
    ratio = median(ours["per_s"] / others["per_s"] for ours, others in pairs)
    return Contention(name, messages, ratio, *(join([pair[side] for pair in pairs]) for side in (0, 1)))


def join(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds together, as p50, p99 and maximum."""
    joined: dict[str, Any] = {
        "per_s": median(each["per_s"] for each in runs),
        "errors": sum(each["errors"] for each in runs),
    }
    for kind in _KINDS:
        took = [value for each in runs for value in each[kind]]
        joined[kind] = [round(value, 3) for value in (percentile(took, 0.5), percentile(took, 0.99), max(took))]
    return joined


def run(processes: int, messages: int, mode: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, _CHILD, f"{folder}/bench.db", str(max(1, messages // processes)), mode]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        children = [subprocess.Popen(command, **pipes) for _ in range(processes)]
        for each in children:
            each.stdout.readline()  # it is ready
        began = time.perf_counter()
        for each in children:
            each.stdin.write("go\n")
            each.stdin.flush()
        parts = [json.loads(each.communicate()[0]) for each in children]
        took_s = time.perf_counter() - began
    result: dict[str, Any] = {kind: [value for part in parts for value in part[kind]] for kind in _KINDS}
    result["errors"] = sum(part["errors"] for part in parts)
    result["per_s"] = len(result["send"]) / took_s
    return result


def hammer(path: Path, count: int, *, turns: bool) -> None:
    """One of the processes; milliseconds of each call to its output."""
    if not turns:
        _turns.Turns._possible = property(lambda _: False, lambda *_: None)  # type: ignore[assignment]
    backend = Opener(SystemClock()).open(QueueURL.parse(f"sqlite:////{path.relative_to('/')}?queue=bench"))
    backend.probe()
    took: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    errors = 0

    def measure(kind: str, call: Any) -> Any:
        nonlocal errors
        began = time.perf_counter()
        try:
            return call()
        except Exception:  # noqa: BLE001 - counted, whatever it is
            errors += 1
            return None
        finally:
            took[kind].append((time.perf_counter() - began) * 1e3)

    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(count):
        message = OutgoingMessage(f"{index}", b"x" * 200)
        measure("send", lambda message=message: backend.send([message], timeout_s=30))
        got = measure("receive", lambda: backend.receive(max_messages=1, wait_s=0, lease_s=60)) or ()
        acks = [Settlement(each.handle, Action.ACK) for each in got]
        if acks:
            measure("ack", lambda acks=acks: backend.settle(acks, timeout_s=30))
    backend.close()
    print(json.dumps({**took, "errors": errors}))


if __name__ == "__main__":
    main()
