# SPDX-License-Identifier: Apache-2.0
"""A Redis or Valkey primary with a replica, and a Sentinel that watches them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from queuekit.testing._output import Output
from queuekit.testing.emulators._redis import LocalRedis, free_port
from queuekit.testing.emulators._redis_cluster import call, until

SERVICE = "main"
_DOWN_AFTER_MS = 500
_FAILOVER_MS = 2000


class LocalSentinel:
    """Two servers, of which one is the primary, and one Sentinel that decides alone.

    It takes a primary that does not answer for half a second to be down.

    Args:
        directory: Where they keep their files; their own.
        program: See `redis_program`.
        durable: See `LocalRedis`.
        options: More of the servers' own options.
    """

    def __init__(self, directory: Path, program: Path, *, durable: bool = False, options: Sequence[str] = ()) -> None:
        # A replica that asks for a copy gets it at once, and not with others that may ask in the next seconds.
        more = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-timeout", "5", *options)
        self.servers: tuple[LocalRedis, LocalRedis] = (
            LocalRedis(directory / "one", program, durable=durable, options=more),
            LocalRedis(directory / "two", program, durable=durable, options=more),
        )
        self._directory = directory
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The URL of the service."""
        return f"redis+sentinel://127.0.0.1:{self._port}/{SERVICE}/0"

    @property
    def port(self) -> int:
        """Where the Sentinel listens."""
        return self._port

    @property
    def primary(self) -> LocalRedis:
        """The server that the Sentinel takes to be the primary."""
        _, port = self.ask("GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(each for each in self.servers if each.port == int(port))

    @property
    def replica(self) -> LocalRedis:
        """The other one."""
        one, two = self.servers
        return two if self.primary is one else one

    def start(self) -> None:
        """Start all three, and wait until the Sentinel could fail over."""
        for each in self.servers:
            each.start()
        one, two = self.servers
        call(two.port, "REPLICAOF", "127.0.0.1", one.port)
        self._start_sentinel(one)
        self.until_whole()

    def kill(self) -> None:
        """End all three at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for each in self.servers:
            each.kill()

    def restart(self) -> None:
        """End both servers at once, and start them again as they were."""
        primary, replica = self.primary, self.replica
        for each in (primary, replica):
            each.kill()
        for each in (primary, replica):
            each.start()
        call(replica.port, "REPLICAOF", "127.0.0.1", primary.port)

    def fail_over(self) -> None:
        """Let the Sentinel make the replica the primary, and wait until it is."""
        old, new = self.primary, self.replica
        until(lambda: self._try("FAILOVER", SERVICE), "the Sentinel fails over")
        until(lambda: self.primary is new, "the other server is the primary")
        # Until it is told, it takes writes that nobody else will have.
        until(lambda: call(old.port, "ROLE")[0] == b"slave", "the first server is a replica")

    def until_whole(self) -> None:
        """Wait until the replica has what the primary has, and the Sentinel knows it."""
        replica = self.replica
        until(lambda: b"master_link_status:up" in call(replica.port, "INFO", "replication"), "the replica follows")
        until(self._knows_replica, "the Sentinel knows the replica")

    def ask(self, *words: Any) -> Any:
        """Ask the Sentinel."""
        return call(self._port, "SENTINEL", *words)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, neither server answers; as the Sentinel does not either, it has nothing to decide."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            with self.servers[0].paused(), self.servers[1].paused():
                yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, the primary answers that it is busy with a script."""
        with self.primary.busy():
            yield

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def _try(self, *words: Any) -> bool:
        from redis import exceptions

        try:
            return bool(self.ask(*words))
        except exceptions.ResponseError:
            return False  # no replica is good enough yet

    def _knows_replica(self) -> bool:
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in self.ask("REPLICAS", SERVICE)]
        return any(row[b"flags"] == b"slave" and row[b"master-link-status"] == b"ok" for row in rows)

    def _start_sentinel(self, primary: LocalRedis) -> None:
        self._port = free_port()
        lines = (
            f"port {self._port}",
            "bind 127.0.0.1",
            f"dir {self._directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {_FAILOVER_MS}",
        )
        file = self._directory / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n")
        process = self._process = subprocess.Popen(
            [str(self._program), str(file), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        output = Output(process)
        until(lambda: process.poll() is not None or call(self._port, "PING"), "the Sentinel answers")
        if process.poll() is not None:
            msg = f"the Sentinel does not start; {output.last()}"
            raise RuntimeError(msg)
        self._hurry()

    def _hurry(self) -> None:
        """Let it look more often than each few seconds, where it can; Redis 7 and Valkey can."""
        for name in ("info-period", "ping-period", "ask-period", "publish-period"):
            self._try("DEBUG", name, 100)
