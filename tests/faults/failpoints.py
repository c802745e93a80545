# SPDX-License-Identifier: Apache-2.0
"""Crashes at chosen points, each in a process of its own: ``python failpoints.py FOLDER RUNS``.

Prints one JSON object for each run. A crash is ``os._exit``: nothing is flushed, closed or given back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_validator

import queuekit as qk
import queuekit._portable.worker
from queuekit.testing.faults import Call, FaultyOpener, Proceed, Script, Step

CRASHED = 9
LEASE = timedelta(seconds=0.5)
BATCH = 10
POINTS = {
    "a": ["after the receive"],
    "b": ["before the handler"],
    "c": ["in the handler"],
    "d": ["before the ack"],
    "e": ["before the commit of the ack", "after the commit of the ack"],
    "f": ["before the commit of a batch", "after the commit of a batch"],
    "g": ["before the commit of the dead-lettering", "after it", "between the copy and the ack"],
}
"""Where to crash, by the points' names; the runs of a point take turns."""


class Payload(BaseModel):
    number: int

    @model_validator(mode="after")
    def _crash(self) -> Payload:
        if crashing["in validation"]:
            os._exit(CRASHED)
        return self


crashing = {"in validation": False, "at commit": False}


def effect(queue: str, message_id: str) -> None:
    descriptor = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{queue} {message_id}\n".encode("ascii"))
    os.close(descriptor)


def crash_before(_call: Call, _proceed: Proceed) -> Any:
    os._exit(CRASHED)


def crash_after(call: Call, proceed: Proceed) -> Any:
    answers = proceed(call.batch)
    if answers:
        os._exit(CRASHED)
    return answers


def crash_at_commit(call: Call, proceed: Proceed) -> Any:
    crashing["at commit"] = True
    return proceed(call.batch)


def watch_commits() -> None:
    """Every connection tells of a statement before it is carried out."""
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda sql: crashing["at commit"] and sql == "COMMIT" and os._exit(CRASHED))
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


STEPS: dict[str, tuple[str, Step]] = {
    "after the receive": ("receive", crash_after),
    "before the ack": ("settle", crash_before),
    "before the commit of the ack": ("settle", crash_at_commit),
    "after the commit of the ack": ("settle", crash_after),
    "before the commit of a batch": ("settle", crash_at_commit),
    "after the commit of a batch": ("settle", crash_after),
    "before the commit of the dead-lettering": ("settle", crash_at_commit),
    "after it": ("settle", crash_after),
    "between the copy and the ack": ("settle", crash_before),
}


def crash(queue: str, where: str) -> None:
    """Work a queue until the crash."""
    watch_commits()
    script = Script()
    verb, step = STEPS.get(where, ("", None))
    if step is not None:
        script.always(verb, step)  # type: ignore[arg-type]
    crashing["in validation"] = where == "before the handler"
    if "batch" in where:
        settle_a_batch(queue, script)
    app = qk.App("sqlite:///jobs.db")
    app._opener = FaultyOpener(app._opener, script)
    copies = copies_of(queue) if "copy" in where else None

    @app.handler(queue, lease=LEASE, prefetch=0, dead_letter=copies)
    def handle(_payload: Payload) -> qk.DeadLetter | None:
        effect(queue, qk.current().message_id)
        if where == "in the handler":
            os._exit(CRASHED)
        return qk.DeadLetter("on purpose") if queue.startswith("g") else None

    app.run(signals=False)


def settle_a_batch(queue: str, script: Script) -> None:
    opener = FaultyOpener(qk.App("sqlite:///jobs.db")._opener, script)
    with qk.Consumer(f"sqlite:///jobs.db?queue={queue}", lease=LEASE, _opener=opener) as consumer:
        for _ in range(BATCH):
            delivery = consumer.receive(timeout=5)
            assert delivery is not None
            effect(queue, delivery.message_id)
            delivery.ack()


def copies_of(queue: str) -> str:
    return f"sqlite:///jobs.db?queue={queue}.copies"


def finish(queue: str, where: str) -> None:
    """What another worker does, once the leases have ended."""
    copies = copies_of(queue) if "copy" in where else None
    url = f"sqlite:///jobs.db?queue={queue}"
    with qk.Consumer(url, dead_letter=copies, lease=timedelta(seconds=30)) as consumer:
        backend: Any = consumer._link.backend
        while (stats := backend.stats()).ready or stats.leased or stats.delayed:
            delivery = consumer.receive(timeout=1)
            if delivery is None:
                continue
            effect(queue, delivery.message_id)
            delivery.dead_letter("on purpose") if queue.startswith("g") else delivery.ack()
            delivery.settled(timeout=10)


def letters(queue: str, where: str) -> list[str]:
    if "copy" in where:
        with qk.Consumer(copies_of(queue)) as consumer:
            return [each.message_id for each in consumer._link.backend.peek(limit=100)]  # type: ignore[attr-defined]
    with qk.DeadLetters(f"sqlite:///jobs.db?queue={queue}") as dead:
        return [each.message_id for each in dead.letters()]


def in_a_child(function: Callable[[], None]) -> int:
    """The exit code of a child that does this. Nothing else runs here, so that forking is safe."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, runs: int) -> None:
    os.chdir(folder)
    plan = [(f"{point}{run}", places[run % len(places)]) for point, places in POINTS.items() for run in range(runs)]
    sent: dict[str, list[str]] = {}
    for queue, where in plan:
        with qk.Producer[Payload](f"sqlite:///jobs.db?queue={queue}", payload=Payload) as producer:
            report = producer.send_many(Payload(number=n) for n in range(BATCH if "batch" in where else 1))
            sent[queue] = [each.message_id for each in report if isinstance(each, qk.Accepted)]
        code = in_a_child(lambda queue=queue, where=where: crash(queue, where))  # type: ignore[misc]
        assert code == CRASHED, f"{queue}: {where} was not reached"
    threading.Event().wait(LEASE.total_seconds())
    for queue, where in plan:
        finish(queue, where)
    effects = [line.split() for line in Path("effects").read_text("ascii").splitlines()]
    for queue, where in plan:
        mine = [message_id for name, message_id in effects if name == queue]
        found = {"where": where, "sent": sent[queue], "effects": mine, "letters": letters(queue, where)}
        sys.stdout.write(json.dumps({"point": queue[0], **found}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
