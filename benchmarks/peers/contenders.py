# SPDX-License-Identifier: Apache-2.0
"""Who takes part, with which settings, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peers.installing import Tools

FOLDER = Path(__file__).parent

SCENARIOS: Mapping[str, tuple[str, float]] = {
    "simple": ("the handler counts", 1.0),
    "io": ("the handler waits for 5 ms; 100 at once", 0.5),
    "cpu": ("the handler calculates: 40,000 steps, some ms in Python; 2 processes", 0.05),
    "large": ("as simple, 100 KB of JSON", 0.05),
}
"""What is done, and the part of ``--messages`` that it takes."""


@dataclass(frozen=True)
class Contender:
    """One way to work a queue.

    Attributes:
        name: In the tables.
        needs: What must be there: ``python``, ``node``, ``go``, or nothing.
        worker: The command of each scenario in which it takes part; its first word is a tool's name.
        sender: The command that sends.
        settings: What was set beyond what it comes with, as the page tells it.
        share: Part of a scenario's messages, so that slow ones do not take all of the time.
        environment: More variables for both.
    """

    name: str
    needs: str
    worker: Mapping[str, Sequence[str]]
    sender: Sequence[str]
    settings: str
    share: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def worker_command(self, scenario: str, tools: Tools) -> list[str]:
        return _resolved(self.worker[scenario], tools)

    def sender_command(self, tools: Tools) -> list[str]:
        return _resolved(self.sender, tools)


def _resolved(command: Sequence[str], tools: Tools) -> list[str]:
    return [tools.path(command[0]), *command[1:]]


def _everywhere(*command: str) -> dict[str, Sequence[str]]:
    return dict.fromkeys(SCENARIOS, command)


_QUEUEKIT = (sys.executable, "-m", "queuekit.cli", "worker", "with_queuekit:app", "--log-level", "warning")
_CELERY = ("celery", "-A", "with_celery", "worker", "--loglevel", "WARNING", "--concurrency")
_DRAMATIQ = ("dramatiq", "with_dramatiq", "--processes")
_TASKIQ = ("taskiq", "worker", "with_taskiq:broker", "--log-level", "WARNING", "--workers")

CONTENDERS: Sequence[Contender] = (
    Contender(
        "queuekit",
        "",
        _everywhere(*_QUEUEKIT) | {"cpu": (*_QUEUEKIT, "--processes", "2")},
        (sys.executable, "with_queuekit.py"),
        "sync handlers on 10 threads; `io` 100 threads; `cpu` `--processes 2`",
        environment={"PEERS_FACE": "sync"},
    ),
    Contender(
        "queuekit async",
        "",
        dict.fromkeys(("simple", "io", "large"), _QUEUEKIT),
        (sys.executable, "with_queuekit.py"),
        "async handlers, 100 at once",
        environment={"PEERS_FACE": "async"},
    ),
    Contender(
        "bare loop",
        "",
        _everywhere(sys.executable, "by_hand.py", "work"),
        (sys.executable, "by_hand.py", "send"),
        "redis-py with hiredis: `XREADGROUP` of 100, then `XACK` and `XDEL` in one pipeline, sends in pipelines "
        "of 100; `io` asyncio, a hundred at once; `cpu` two processes, 10 at a time",
    ),
    Contender(
        "Go by hand",
        "go",
        _everywhere("by_hand", "work"),
        ("by_hand", "send"),
        "`BRPOPLPUSH` and `LREM`, 50 goroutines with a connection each, `io` 100; one process on all cores; "
        "sends in pipelines of 100",
    ),
    Contender(
        "BullMQ",
        "node",
        _everywhere("node", "with_bullmq.js", "work"),
        ("node", "with_bullmq.js", "send"),
        "concurrency 100, done jobs removed, `addBulk` of 1,000; `cpu` a sandboxed processor with 2 child processes",
        share={"simple": 0.5},
    ),
    Contender(
        "taskiq",
        "python",
        _everywhere(*_TASKIQ, "1") | {"cpu": (*_TASKIQ, "2")},
        ("python", "with_taskiq.py"),
        "RedisStreamBroker, which acks, with a socket timeout of 120 s; async tasks, 100 at once, one process; "
        "`cpu` sync tasks in 2 workers; 100 sends at once",
        share={"simple": 0.3, "io": 0.5},
    ),
    Contender(
        "dramatiq",
        "python",
        _everywhere(*_DRAMATIQ, "1")
        | {"io": (*_DRAMATIQ, "1", "--threads", "100"), "cpu": (*_DRAMATIQ, "2", "--threads", "1")},
        ("python", "with_dramatiq.py"),
        "one process of 8 threads; `io` 100 threads; `cpu` 2 processes of 1 thread; no sends in bulk",
        share={"simple": 0.2, "io": 0.3},
    ),
    Contender(
        "Celery",
        "python",
        _everywhere(*_CELERY, "2") | {"io": (*_CELERY, "100", "--pool", "gevent")},
        ("python", "with_celery.py"),
        "`acks_late`, `reject_on_worker_lost`, no results; prefork of 2, prefetch multiplier 64 (`cpu` 4); "
        "`io` gevent of 100; no sends in bulk",
        share={"simple": 0.1, "io": 0.2, "cpu": 0.7, "large": 0.7},
    ),
)
