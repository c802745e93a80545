# SPDX-License-Identifier: Apache-2.0
"""What an idle worker costs: the share of one core, and the memory that its process has to itself and in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from _bench import arguments
from _servers import redis_server

_CHILD = "--work"
_SETTLE_S = 1.5


@dataclass(frozen=True)
class Idle:
    """Percent of one core, and megabytes."""

    name: str
    seconds: float
    cpu_percent: float
    rss_mb: float
    ratio: float
    """The process's memory over that of an interpreter with pydantic, tenacity and asyncio."""


def main() -> None:
    if sys.argv[1:2] == [_CHILD]:
        work(sys.argv[2])
        return
    options = arguments("an idle worker; --rounds is seconds to watch it", messages=1, rounds=20).parse_args()
    bare_mb = _rss_of_parts()
    results = []
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        for name, url in (("memory", "memory://"), ("sqlite", f"sqlite:///{folder}/jobs.db"), ("redis", server.url)):
            if options.only in name:
                results.append(watch(name, url, options.rounds, bare_mb))
                each = results[-1]
                if not options.json:
                    cpu, memory = f"{each.cpu_percent:.2f} % of a core", f"{each.rss_mb:.1f} MB"
                    print(f"{each.name:<10} {cpu}, {memory}, ratio {each.ratio:.2f}")
    if options.json:
        print(json.dumps([asdict(each) for each in results], indent=2))


def watch(name: str, url: str, seconds: float, bare_mb: float) -> Idle:
    pause = threading.Event()
    with subprocess.Popen(
        [sys.executable, __file__, _CHILD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        pause.wait(_SETTLE_S)
        before = _cpu_s(child.pid)
        pause.wait(seconds)  # what is measured is that nothing happens
        used, rss = _cpu_s(child.pid) - before, _rss_mb(child.pid)
        child.stdin.close()
        child.wait()
    return Idle(name, seconds, 100 * used / seconds, rss, rss / bare_mb)


def work(url: str) -> None:
    """The idle process: a worker with one handler and nothing to do, until its input ends."""
    from queuekit import App

    app = App(url)

    @app.handler("idle")
    def handle(_text: str) -> None:
        raise AssertionError

    def stop_at_end() -> None:
        sys.stdin.read()
        app.stop()

    print("ready", flush=True)
    threading.Thread(target=stop_at_end, daemon=True).start()
    app.run(signals=False)


def _rss_of_parts() -> float:
    code = "from pydantic import TypeAdapter; import tenacity, asyncio, sys; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        rss = _rss_mb(child.pid)
        child.stdin.close()
    return rss


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
