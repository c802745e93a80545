# SPDX-License-Identifier: Apache-2.0
"""A worker that is fed hostile messages under an audit hook: ``python hostile.py APP_URL bodies|names COUNT``.

A hook cannot be taken away again, so this is a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import tenacity
from pydantic import BaseModel

import queuekit as qk
from queuekit.backend import OutgoingMessage
from queuekit.testing import VirtualClock

FORBIDDEN = {
    "import", "exec", "compile", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.posix_spawn",
    "os.fork", "subprocess.Popen", "ctypes.dlopen", "socket.connect", "shutil.rmtree", "code.__new__",
}  # fmt: skip
MODULES = ["os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "pickle.loads", "this", "antigravity"]

SOURCE = Path(qk.__file__).parent
OURS = b"".join(path.read_bytes() for path in SOURCE.rglob("*.py"))


class Order(BaseModel):
    item: str
    count: int


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def bodies(count: int) -> list[tuple[bytes, dict[str, str]]]:
    """What other formats would carry out, each under several claims of what it is."""
    payloads = [pickle.dumps(Evil(), protocol) for protocol in range(6)]
    payloads += [
        b"cos\nsystem\n(S'touch owned'\ntR.",
        b"!!python/object/apply:os.system ['touch owned']",
        b"--- !!python/name:os.system",
        b'{"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["touch owned"]]}',
        b'{"__class__": "subprocess.Popen", "args": ["touch", "owned"]}',
        b'{"__reduce__": ["os.system", ["touch owned"]]}',
        b'{"item": {"$type": "os.system"}, "count": 1}',
        b'{"exc_type": "os.system", "exc_module": "os", "exc_message": ["touch owned"]}',
        b"__import__('os').system('touch owned')",
        b"{{ ''.__class__.__mro__ }}",
        b'{"item": "tea", "count": "__import__(\'os\').getpid()"}',
        b"\x83\x00\x00\x00\x00",
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        b"\x82\xa5__cls\xa9os.system",
    ]
    claims = [
        {},
        {"content-type": "application/json"},
        {"content-type": "application/x-python-serialize"},
        {"content-type": "application/x-yaml"},
        {"content-type": "application/x-pickle", "content-encoding": "pickle"},
    ]
    pairs = [(body, claim) for body in payloads for claim in claims]
    return [pairs[index % len(pairs)] for index in range(count)]


def names(count: int) -> list[str]:
    """Dotted names of what exists, and of what does not."""
    chance = random.Random(7)
    parts = ["os", "sys", "subprocess", "shutil", "ctypes", "importlib", "pickle", "builtins", "xmlrpc", "turtle"]
    made = [*MODULES]
    while len(made) < count:
        made.append(".".join(chance.choice(parts) for _ in range(chance.randrange(1, 5))) + f".f{len(made)}")
    return made[:count]


class Watch:
    """Counts what must not happen while it is armed."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.armed = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # A traceback is rendered by parsing the source lines that it shows, and those are our own.
        if self.armed and event in FORBIDDEN and not (event == "compile" and arguments[0] in OURS):
            self.seen[f"{event} {arguments[:1]!r}"[:200]] += 1


def put(backend: Any, batch: list[tuple[bytes, dict[str, str]]]) -> None:
    for body, metadata in batch:
        backend.send([OutgoingMessage(os.urandom(8).hex(), body, metadata=metadata)], timeout_s=30)


def until_empty(backend: Any, clock: VirtualClock) -> None:
    """A message of an unknown type waits between its attempts, as somebody else may know it."""
    pause = threading.Event()
    for _ in range(6000):
        clock.advance(1)
        stats = backend.stats()
        if stats.ready + stats.leased + stats.delayed == 0:
            return
        pause.wait(0.005)
    msg = "the worker did not come to an end"
    raise TimeoutError(msg)


def main(url: str, what: str, count: int) -> None:
    done: list[str] = []
    clock = VirtualClock()
    app = qk.App(url, clock=clock)

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=1, wait=tenacity.wait_none()))
    def take(order: Order) -> None:
        done.append(order.item)

    watch = Watch()
    worker = threading.Thread(target=lambda: app.run(signals=False), daemon=True)
    worker.start()
    place = "memory://jobs" if url == "memory://" else f"{url}?queue=jobs"
    good = (b'{"item": "tea", "count": 1}', dict[str, str]())
    hostile = bodies(count) if what == "bodies" else [(good[0], {"v": "1", "type": name}) for name in names(count)]
    with qk.Consumer(place, clock=clock) as consumer, qk.DeadLetters(place, clock=clock) as letters:
        backend: Any = consumer._link.backend
        # Every path is taken once before, as modules are imported when they are first needed.
        put(backend, [good, (b"no", {}), (b"{}", {"type": "no.such"}), (b"x", {"content-type": "text/x-odd"})])
        until_empty(backend, clock)
        watch.armed = True
        put(backend, [*hostile, good])
        until_empty(backend, clock)
        watch.armed = False
        found = list(letters.letters())[3:]
    app.stop()
    while worker.is_alive():
        clock.advance(1)
        worker.join(0.01)
    told = {
        "events": dict(watch.seen),
        "reasons": dict(Counter(each.reason for each in found)),
        "whole": Counter(each.body for each in found) == Counter(body for body, _ in hostile),
        "done": len(done),
        "owned": Path("owned").exists(),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
