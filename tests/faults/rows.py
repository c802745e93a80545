# SPDX-License-Identifier: Apache-2.0
"""The rows of the reliability table: what each claims, how large it is run, and what a run of it showed."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

FIGURES = os.environ.get("QUEUEKIT_FAULTS", "ci")
if FIGURES not in {"ci", "full"}:
    msg = f"QUEUEKIT_FAULTS must be ci or full and is {FIGURES!r}"
    raise ValueError(msg)
FULL = FIGURES == "full"


def figure(full: int, ci: int | None = None) -> int:
    """A count: the full one where it was asked for, else a tenth of it, or what stands beside it."""
    return full if FULL else (full + 9) // 10 if ci is None else ci


class Scenario(NamedTuple):
    """What a row does, and what it must show."""

    fault: str
    passes: str


ROWS: Mapping[str, Scenario] = {
    "R1": Scenario(
        "`kill -9` of random workers, of three, while messages are worked",
        "none lost; duplicates at most what the killed workers held; the file is sound",
    ),
    "R2": Scenario(
        "`kill -9` of random workers, of three, on a broker",
        "none lost; duplicates at most what the killed workers held; the last one is back by the lease's end + 2 s",
    ),
    "R3": Scenario(
        "`kill -9` on a queue where nothing else happens", "another worker has it by the lease's end + 2 s"
    ),
    "R4": Scenario(
        "all workers are killed at once; later one starts", "none lost; the first is back 2 s after start"
    ),
    "R5": Scenario(
        "a worker is killed and started again in the same place", "what it held comes back; nothing stays"
    ),
    "R6": Scenario(
        "a crash (a) after the receive, (b) before the handler, (c) in it, (d) after it, (e) in the ack, "
        "(f) in a batch of acks, (g) in the dead-lettering",
        "none lost; at a and b each effect once; duplicates only from c on",
    ),
    "R7": Scenario(
        "rolling SIGTERM restarts", "none lost, no duplicate, exit code 0, what had not begun is free at once"
    ),
    "R8": Scenario(
        "a handler that runs longer than the drain", "it is told, its message is released, no attempt counted"
    ),
    "R9": Scenario(
        "a message whose handler ends the process: `os._exit`, SIGSEGV, SIGKILL",
        "dead after 3 crashes with the reason; every other one is done; the parent lives",
    ),
    "R10": Scenario(
        "a handler that eats memory up to the limit, and one that raises MemoryError",
        "as R9; after a MemoryError every slot goes on working",
    ),
    "R11": Scenario(
        "a handler that hangs: an `await` without end, a blocking call, an endless loop",
        "its time limit is kept to 1 s where it can be; others are not affected; a blocked loop is told",
    ),
    "R12": Scenario(
        "a handler that burns the CPU for 10 leases; one that holds the interpreter lock for 3",
        "no duplicate; where the lock is held in the worker itself, the lost lease is told",
    ),
    "R13": Scenario("handlers of 10 leases, with messages waiting in the worker", "no redelivery"),
    "R14": Scenario(
        "SIGSTOP of a worker for 3 leases, then SIGCONT", "the late ack is a lost lease, told within 1 s"
    ),
    "R15": Scenario("messages delayed by 3 leases, five workers", "each once, at most 1 s late, never early"),
    "R16": Scenario(
        "the server is killed, or shut down, while messages are sent and worked",
        "none lost; work goes on 5 s after the port answers",
    ),
    "R17": Scenario(
        "settings that can lose messages: no append-only file, snapshots only, `appendfsync no`, eviction, "
        "a replica; `durability=normal`; memory",
        "`doctor` flags each with the sentence of what can be lost; `strict=true` refuses each",
    ),
    "R18": Scenario("the server is restarted under load", "as R16; one log line for an outage, none for a retry"),
    "R19": Scenario(
        "the network resets every connection every few seconds",
        "none lost; no reset leaves a descriptor or a thread behind",
    ),
    "R20": Scenario(
        "a half-open link: nothing arrives, and nobody is told",
        "no call outlives its timeout by 1 s; none lost; work goes on 5 s after the link does",
    ),
    "R21": Scenario(
        "a server that is not there",
        "a send fails in time, without a secret; a worker waits with < 5 % of a CPU and 6 log lines a minute",
    ),
    "R22": Scenario(
        "several hosts, of which the first is dead; two failovers by Sentinel",
        "connected 5 s after there is a primary; nothing of it is lost",
    ),
    "R25": Scenario("the queue is deleted under a worker", "the worker tells of it in 5 s and works what comes next"),
    "R26": Scenario(
        "the server forgets its scripts, or everything", "healed in 2 s; where messages may be lost, that is told"
    ),
    "R27": Scenario("the disk is full", "QueueFullError; acks and drains go on; none lost; the file is sound"),
    "R28": Scenario("eight processes hammer one file", "nobody is told that the database is locked"),
    "R30": Scenario(
        "the file or its directory cannot be written, is missing, is newer or is another application's; "
        "migrations are killed",
        "a typed error at once; never half a migration",
    ),
    "R31": Scenario("workers whose wall clocks are 10 min ahead and behind", "no early redelivery"),
    "R32": Scenario("the wall clock steps by an hour, forth and back", "no stall; none early by the clock in force"),
    "R34": Scenario(
        "a backlog of large messages, and a slow handler",
        "no more in flight than the prefetch; memory does not grow with the backlog",
    ),
    "R35": Scenario(
        "a handler far slower than lease times prefetch", "what waits in the worker keeps its lease: no duplicate"
    ),
    "R36": Scenario(
        "the answer of an ack is lost",
        "the outcome is `unknown`, or settled where another try was answered; duplicates at most the acks cut",
    ),
    "R37": Scenario(
        "the answer of a send is lost after it was stored", "with a dedup id no duplicate; else at most one"
    ),
    "R38": Scenario(
        "any entries of a batch are refused, behind an answer that is no error",
        "one answer for each; only what was refused is tried again; none lost",
    ),
    "R39": Scenario(
        "any subset of the messages of an AWS Lambda event fails",
        "exactly their ids are answered, and of a FIFO group all behind them",
    ),
    "R40": Scenario(
        "a fifth of all deliveries comes twice, out of order, to idempotent handlers", "one effect a key"
    ),
    "R41": Scenario("a crash between an effect and its record", "the key is free again in time; none stuck"),
    "R42": Scenario("one key on eight workers at once", "one execution; another payload under it is refused"),
    "R43": Scenario(
        "messages that always fail, with crashes mixed in",
        "5 starts each, and that many more as it crashed; waits by policy ± 10 % + 1 s; then dead",
    ),
    "R44": Scenario("what a dead letter tells", "body, id, attributes, key, type, trace and eight facts of its life"),
    "R45": Scenario(
        "the dead-letter queue is unreachable, gone, or takes nothing",
        "the message stays where it is, and that is told; none lost",
    ),
    "R46": Scenario(
        "whoever sends dead letters back is killed, and another goes on",
        "none lost; a kill repeats one batch at most; the rate is not exceeded; ids and attributes stay",
    ),
    "R47": Scenario("bodies that are no payload", "no crash; dead with their bytes; good neighbours are done"),
    "R48": Scenario("cancelled at a random await of send, receive and ack", "none lost; none answered to another"),
    "R49": Scenario("fork after use, spawn, threads that share", "it works, or a typed error; nothing mixed up"),
    "R51": Scenario(
        "a soak under load, with a fault every few seconds",
        "none lost; memory, descriptors and threads end where they began",
    ),
    "R55": Scenario("purge and delete while a worker consumes", "what was removed is said; the worker goes on"),
    "S1": Scenario("hostile bodies: pickles, YAML tags, class paths", "nothing imported or executed; all dead"),
    "S2": Scenario("dotted names as message types", "nothing imported; dead as `no_handler`"),
    "S3": Scenario(
        "JSON of depth, digits, surrogates, NaN, keys without end", "refused or taken as documented, no crash"
    ),
    "S5": Scenario("messages beyond the limit", "MessageTooLargeError before any I/O"),
    "S19": Scenario(
        "pushes with bad tokens: no signature or another's, other keys, audiences, accounts and times",
        "each is answered 401; nothing is asked for where a token says; new keys are found, and known ones serve on",
    ),
    "S20": Scenario(
        "pushes that only look like the service's: its headers, its body, and no token",
        "each is answered 401; no handler is called",
    ),
    "S21": Scenario(
        "too much for a push endpoint: 100 MB, slow or compressed bodies, wrong types, 10,000 at once",
        "413, 408, 415, 429; its memory grows by 64 MB at most; no handler is called",
    ),
    "S22": Scenario(
        "targets that reach where they must not: metadata servers, odd addresses, changing names, redirects",
        "refused before anything is connected to",
    ),
    "S23": Scenario("control characters in names, keys and attributes", "refused before any backend sees them"),
    "S24": Scenario("names as injection: quotes, `../`, `*`, braces", "no effect outside the queue and the file"),
    "S28": Scenario("files and sockets under umask 0 and 077", "0600, directories 0700"),
    "S32": Scenario("a plug-in that raises at import, for another scheme", "never imported"),
}
"""In the order of the table."""

WAITING: Mapping[str, str] = {}
"""Rows, or parts of them, that are promised and have no test yet, each with what it waits for."""

_NAME = re.compile(r"test_([RS]\d+)_")


def row_of(test_name: str) -> str | None:
    """The row that a test's name gives."""
    match = _NAME.match(test_name)
    return match[1] if match else None


@dataclass(kw_only=True)
class Result:
    """What a run of a row showed on a backend.

    Attributes:
        row: Its id.
        backend: The scheme; `-` where the row is about none.
        case: Which of several, where the row has several.
        figures: How large it was.
        lost: Messages that were accepted and never handled.
        duplicates: Times that a message was handled again after it had been handled.
        bound: The most duplicates that this run could explain.
        times: Seconds, by what took them.
        seen: Anything else that was counted.
        tests: How many tests stand behind it.
        passed: Whether all of them passed.
        full: Whether the figures were the full ones.
    """

    row: str
    backend: str = "-"
    case: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    lost: int | None = None
    duplicates: int | None = None
    bound: int | None = None
    times: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float | str] = field(default_factory=dict)
    tests: int = 1
    passed: bool = False
    full: bool = FULL

    @property
    def key(self) -> tuple[int, str, str, str]:
        """Its place in the table."""
        return list(ROWS).index(self.row), self.backend, self.case, self.row

    def found(
        self,
        *,
        lost: int | None = None,
        duplicates: int | None = None,
        bound: int | None = None,
        **seen: float | str,
    ) -> None:
        """Write down what was counted. To be called before it is judged, so that a failure shows it too."""
        self.lost = lost if lost is not None else self.lost
        self.duplicates = duplicates if duplicates is not None else self.duplicates
        self.bound = bound if bound is not None else self.bound
        self.seen.update(seen)

    def ran(self, **figures: float) -> None:
        """Write down how large the run was."""
        self.figures.update(figures)

    def took(self, **times: float) -> None:
        """Write down how long something took; of two values of one name the longer stays."""
        for name, seconds in times.items():
            self.times[name] = round(max(seconds, self.times.get(name, 0.0)), 3)


def merge(results: Iterable[Result]) -> list[Result]:
    """One result for each row, backend and case: tests that count nothing are counted themselves."""
    merged: dict[tuple[int, str, str, str], Result] = {}
    for each in results:
        known = merged.setdefault(each.key, each)
        if known is not each:
            known.tests += each.tests
            known.passed = known.passed and each.passed
            known.seen.update(each.seen)
    return [merged[key] for key in sorted(merged)]


def write(path: Path, results: Iterable[Result]) -> None:
    """Write the table as JSON, and as Markdown beside it; rows that were not run stay as they stood there."""
    new = merge(results)
    rows_of_now = {each.key for each in new}
    old = [each for each in read(path) if each.key not in rows_of_now] if path.exists() else []
    everything = sorted([*old, *new], key=lambda each: each.key)
    system = f"{platform.system()} {platform.machine()}"
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "host": f"{os.cpu_count()} CPUs, {system}, Python {platform.python_version()}",
        "results": [asdict(each) for each in everything],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(everything), encoding="utf-8")


def read(path: Path) -> list[Result]:
    """The results of a file that `write` wrote."""
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["results"]
    return [Result(**each) for each in found]


def table(results: Iterable[Result]) -> str:
    """The results as a Markdown table."""
    head = ("row", "backend", "what", "figures", "lost", "duplicates (at most)", "seconds", "verdict")
    lines = [head, ("---",) * len(head)]
    for each in results:
        duplicates = "" if each.duplicates is None else str(each.duplicates)
        if each.bound is not None:
            duplicates += f" ({each.bound})"
        what = ROWS[each.row].fault + (f": *{each.case}*" if each.case else "")
        counted = {**each.figures, **each.seen} or {"tests": each.tests}
        lines.append(
            (
                each.row,
                each.backend,
                what,
                _show(counted),
                "" if each.lost is None else str(each.lost),
                duplicates,
                _show(each.times),
                ("pass" if each.passed else "**fail**") + ("" if each.full or not each.figures else " (tenth)"),
            )
        )
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _show(values: Mapping[str, float | str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in values.items())


def _number(value: float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
