# SPDX-License-Identifier: Apache-2.0
"""What processes of their own do to files: ``python files.py full|denied|hammer|migrate …``. Each prints JSON."""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import queuekit as qk
import queuekit._portable.worker  # before a user is dropped who may not read it
from queuekit.backends.sqlite import SQLiteBackend

NOBODY = 65534
BALLAST = 5 << 19
BODY = b"x" * 10_000


def say(**found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def full(folder: str, size: str) -> None:
    """Fill the disk (``size`` is empty: a file system that is small itself), or the file up to its limit."""
    os.chdir(folder)
    ballast = Path("ballast")
    ballast.write_bytes(b"\0" * BALLAST if not size else b"")
    url = "sqlite:///jobs.db?queue=jobs" + (f"&max_size={size}" if size else "")
    accepted: list[str] = []
    refused = ""
    with qk.Producer(url, timeout=timedelta(seconds=1)) as producer:
        while not refused:
            try:
                accepted.append(producer.send(BODY).message_id)
            except qk.QueueKitError as error:
                refused = type(error).__name__
    handled: list[str] = []
    acked_while_full = 0
    with qk.Consumer(url, lease=timedelta(seconds=60), prefetch=0) as consumer:
        delivery = None
        with suppress(qk.QueueFullError):  # a lease must be written, too
            delivery = consumer.receive(timeout=2)
        if delivery is not None:
            handled.append(delivery.message_id)
            delivery.ack()
            with suppress(qk.QueueKitError):
                delivery.settled(timeout=1)
                acked_while_full += 1
        ballast.unlink()
        while len(set(handled)) < len(accepted):
            delivery = consumer.receive(timeout=30)
            if delivery is None:
                break
            handled.append(delivery.message_id)
            delivery.ack()
            delivery.settled(timeout=30)
    with qk.Producer(url) as producer:
        producer.send(BODY)  # and there is room again
    with closing(sqlite3.connect("jobs.db")) as connection:
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        left = connection.execute("SELECT count(*) FROM message").fetchone()[0]
    say(
        refused=refused,
        accepted=len(accepted),
        lost=len(set(accepted) - set(handled)),
        again=len(handled) - len(set(handled)),
        acked_while_full=acked_while_full,
        sound=sound,
        left=left - 1,
    )


def mounted(folder: str) -> None:
    """Mount a file system of 4 MiB for this process alone, and fill it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=4m") != 0:
        raise OSError(ctypes.get_errno(), "mount")
    full(folder, "")


def denied(folder: str) -> None:
    """Open files of every wrong kind, as a user without rights where this one has all."""
    root = Path(folder)
    made = root / "made"
    made.mkdir(mode=0o755)
    with qk.Producer(f"sqlite:///{made}/jobs.db?queue=jobs") as producer:
        producer.send(b"x")
    content = (made / "jobs.db").read_bytes()
    make_unusable(root, content)
    drop_rights(root)
    for case in ("file", "closed", "empty", "folder", "missing", "newer", "foreign", "noise"):
        began, raised = time.monotonic(), ""
        try:
            with qk.Producer(f"sqlite:///{root}/{case}/jobs.db?queue=jobs") as producer:
                producer.send(b"x")
        except qk.QueueKitError as error:
            raised = type(error).__name__
        say(case=case, raised=raised, took=time.monotonic() - began)


def make_unusable(root: Path, content: bytes) -> None:
    for name in ("file", "closed", "newer", "foreign", "noise"):
        (root / name).mkdir()
        (root / name / "jobs.db").write_bytes(content)
    (root / "empty").mkdir()
    (root / "folder" / "jobs.db").mkdir(parents=True)
    for name, pragma in (("newer", "user_version = 999"), ("foreign", "application_id = 1")):
        with closing(sqlite3.connect(root / name / "jobs.db")) as connection:
            connection.execute(f"PRAGMA {pragma}")
    (root / "noise" / "jobs.db").write_bytes(os.urandom(8192))


def drop_rights(root: Path) -> None:
    if os.getuid() == 0:
        for path in [root, *root.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    (root / "file" / "jobs.db").chmod(0o400)
    (root / "closed" / "jobs.db").chmod(0o600)
    (root / "closed").chmod(0o500)
    (root / "empty").chmod(0o500)
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def hammer(path: str, seconds: str, number: str) -> None:
    """Send, receive and settle without a pause; tell of every error and of how long sends took."""
    url = f"sqlite:///{path}?queue=jobs"
    took: list[float] = []
    errors: list[str] = []
    sent, handled = list[str](), list[str]()
    end = time.monotonic() + float(seconds)
    with qk.Producer(url) as producer, qk.Consumer(url) as consumer:
        while time.monotonic() < end:
            try:
                began = time.monotonic()
                sent.append(producer.send(number.encode()).message_id)
                took.append(time.monotonic() - began)
                sent += [each.message_id for each in producer.send_many([b"x"] * 10) if isinstance(each, qk.Accepted)]
                for _ in range(11):
                    delivery = consumer.receive(timeout=1)
                    if delivery is not None:
                        handled.append(delivery.message_id)
                        delivery.ack()
            except qk.QueueKitError as error:
                errors.append(f"{type(error).__name__}: {error}")
    say(sent=sent, handled=handled, errors=errors, took=took)


def migrate(folder: str, times: str) -> None:
    """Make the database in children that end at their first, second, ... statement; then in one that does not."""
    for stop in range(1, int(times) + 1):
        path = Path(folder, f"{stop}.db")
        url = f"sqlite:///{path}?queue=jobs"
        child = os.fork()
        if child == 0:
            end_at_statement(stop)
            with qk.Producer(url) as producer:
                producer.send(b"child")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with qk.Producer(url) as producer:
            producer.send(b"x")
        with qk.Consumer(url) as consumer:
            bodies = sorted(each.body.decode() for each in consumer._link.backend.peek(limit=9))  # type: ignore[attr-defined]
        with closing(sqlite3.connect(path)) as connection:
            sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        modes = {oct(stat.S_IMODE(each.stat().st_mode)) for each in Path(folder).glob(f"*{stop}.db*")}
        say(stop=stop, code=code, bodies=bodies, sound=sound, modes=sorted(modes))


def end_at_statement(stop: int) -> None:
    connect, seen = sqlite3.connect, [0]

    def count(_sql: str) -> None:
        seen[0] += 1
        if seen[0] == stop:
            os._exit(9)

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


def may_mount() -> bool:
    """Whether this user may mount a file system that only one process sees."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    assert SQLiteBackend is not None
    {"full": full, "mounted": mounted, "denied": denied, "hammer": hammer, "migrate": migrate}[sys.argv[1]](
        *sys.argv[2:]
    )
