# SPDX-License-Identifier: Apache-2.0
"""Idempotent handlers that end their process around their effect: ``python once.py FOLDER RUNS [STORE]``.

Prints JSON. Effects are rows of a table in the database that also holds the idempotency store, so that one
transaction may hold both; unless another store is named.
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
from queuekit._wiring.registry import find_store
from queuekit.backends.sqlite import SQLiteBackend

CRASHED = 9
LEASE = timedelta(seconds=0.5)
WHERE = {
    "plain": ["before the effect", "between effect and mark"],
    "transaction": ["before the effect", "before the commit", "after the commit"],
}


def connect() -> sqlite3.Connection:
    return sqlite3.connect("effects.db", timeout=30)


OWN_STORE = "sqlite:///effects.db"


def work(queue: str, mode: str, where: str, store: str) -> None:
    """Do the one message of a queue, or end on the way."""
    app = qk.App("sqlite:///jobs.db")

    @app.handler(queue, lease=LEASE, concurrency=1, idempotent=store)
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


def in_a_child(queue: str, mode: str, where: str, store: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(queue, mode, where, store)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, runs: int, store: str = OWN_STORE) -> None:
    assert SQLiteBackend is not None
    find_store(qk.QueueURL.parse(store).scheme)
    os.chdir(folder)
    with closing(connect()) as connection, connection:
        connection.execute("CREATE TABLE effects (key TEXT)")
    plan = [
        (f"{mode}{run}", mode, places[run % len(places)])
        for mode, places in WHERE.items()
        if mode == "plain" or store == OWN_STORE
        for run in range(runs)
    ]
    for queue, mode, where in plan:
        with qk.Producer[str](f"sqlite:///jobs.db?queue={queue}", payload=str) as producer:
            producer.send(queue, dedup_id=queue, type="handle")
        assert in_a_child(queue, mode, where, store) == CRASHED, f"{queue}: {where} was not reached"
    for queue, mode, _ in plan:
        assert in_a_child(queue, mode, "", store) == 0  # ends when the queue is empty: no key is stuck
    with closing(connect()) as connection:
        for queue, mode, where in plan:
            ((count,),) = connection.execute("SELECT count(*) FROM effects WHERE key = ?", (queue,))
            sys.stdout.write(json.dumps({"mode": mode, "where": where, "effects": count}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
