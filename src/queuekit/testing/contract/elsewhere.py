# SPDX-License-Identifier: Apache-2.0
"""A consumer in another process, and the log that it writes together with those of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_REAL_LIMIT_S = 20.0

_CONSUMER = """
import os, sys
from datetime import timedelta
from queuekit._portable.consumer import Consumer
path, stop = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND)
with Consumer(sys.stdin.read(), lease=timedelta(seconds=30)) as consumer:
    while not os.path.exists(stop):
        delivery = consumer.receive(timeout=0.05)
        if delivery is not None:
            os.write(log, b"begin " + delivery.body + b"\\n")
            os.write(log, b"end " + delivery.body + b"\\n")
            delivery.ack()
"""


class Log:
    """Lines in the order in which they were written, whoever wrote them: each is one appending write.

    Args:
        path: Of the file, which is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def note(self, what: str, body: bytes) -> None:
        """Write a line."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, what.encode() + b" " + body + b"\n")
        os.close(descriptor)

    def lines(self) -> list[str]:
        """Every line so far."""
        return self.path.read_text("utf-8").splitlines()

    def count(self, what: str) -> int:
        """How many lines begin with this word."""
        return sum(line.split()[0] == what for line in self.lines())


class OtherConsumer:
    """A process that consumes a queue, and notes each body in a log when it begins and when it ends with it.

    Args:
        url: The queue's whole URL; handed over where other users of this host cannot read it.
        log: The file of a `Log`.
    """

    def __init__(self, url: str, log: Path) -> None:
        self._stop = log.with_suffix(".stop")
        command = [sys.executable, "-c", _CONSUMER, str(log), str(self._stop)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(url)
        self._process.stdin.close()

    def result(self, what: str = "the other consumer") -> None:
        """Ask it to end, and wait until it has; fails the case when it fails."""
        self._stop.touch()
        try:
            code = self._process.wait(_REAL_LIMIT_S)
        finally:
            self._process.kill()
        assert code == 0, f"{what} ended with {code}"
