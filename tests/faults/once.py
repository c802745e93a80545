# SPDX-License-Identifier: Apache-2.0
"""Idempotent handlers that end their process around their effect: ``python once.py FOLDER RUNS``. Prints JSON.

Effects are rows of a table in the database that also holds the idempotency store, so that one transaction
may hold both.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from contextlib import closing
from datetime import timedelta

import queuekit as qk
import queuekit._portable.worker  # once here, and not in every child
from queuekit.backends.sqlite import SQLiteBackend

CRASHED = 9
LEASE = timedelta(seconds=0.5)
WHERE = {
    "plain": ["before the effect", "between effect and mark"],
    "transaction": ["before the effect", "before the commit", "after the commit"],
}


def connect() -> sqlite3.Connection:
    return sqlite3.connect("effects.db", timeout=30)


def work(queue: str, mode: str, where: str) -> None:
    """Do the one message of a queue, or end on the way."""
    app = qk.App("sqlite:///jobs.db")

    @app.handler(queue, lease=LEASE, concurrency=1, idempotent="sqlite:///effects.db")
    def handle(key: str) -> None:
        if where == "before the effect":
            os._exit(CRASHED)
        with closing(connect()) as connection, connection:
            connection.execute("INSERT INTO effects VALUES (?)", (key,))
            if mode == "transaction":
                qk.current().complete_in(connection)
            if where == "before the commit":
                os._exit(CRASHED)
        if where in {"between effect and mark", "after the commit"}:
            os._exit(CRASHED)

    worker = threading.Thread(target=lambda: app.run(signals=False), daemon=True)
    worker.start()
    with qk.Consumer(f"sqlite:///jobs.db?queue={queue}") as consumer:
        pause, backend = threading.Event(), consumer._link.backend
        while (stats := backend.stats()).ready or stats.leased or stats.delayed:  # type: ignore[attr-defined]
            pause.wait(0.01)
    app.stop()
    worker.join()


def in_a_child(queue: str, mode: str, where: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(queue, mode, where)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, runs: int) -> None:
    assert SQLiteBackend is not None
    os.chdir(folder)
    with closing(connect()) as connection, connection:
        connection.execute("CREATE TABLE effects (key TEXT)")
    plan = [
        (f"{mode}{run}", mode, places[run % len(places)]) for mode, places in WHERE.items() for run in range(runs)
    ]
    for queue, mode, where in plan:
        with qk.Producer[str](f"sqlite:///jobs.db?queue={queue}", payload=str) as producer:
            producer.send(queue, dedup_id=queue, type="handle")
        assert in_a_child(queue, mode, where) == CRASHED, f"{queue}: {where} was not reached"
    for queue, mode, _ in plan:
        assert in_a_child(queue, mode, "") == 0  # ends when the queue is empty: no key is stuck
    with closing(connect()) as connection:
        for queue, mode, where in plan:
            ((count,),) = connection.execute("SELECT count(*) FROM effects WHERE key = ?", (queue,))
            sys.stdout.write(json.dumps({"mode": mode, "where": where, "effects": count}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
