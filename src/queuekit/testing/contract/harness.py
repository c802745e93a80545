# SPDX-License-Identifier: Apache-2.0
"""What the suite must know about one backend: how to open it, how its time passes, what can be done to it."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pytest

from queuekit._portable.consumer import Consumer
from queuekit._portable.link import BackendOpener
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import DEAD_SUFFIX, Opener, fill_queue
from queuekit.backend import Backend
from queuekit.testing.clock import VirtualClock
from queuekit.testing.contract.elsewhere import OtherConsumer
from queuekit.testing.contract.programs import RUN
from queuekit.testing.faults import FaultyOpener
from queuekit.testing.proxy import TcpProxy

T = TypeVar("T")

REAL_LIMIT_S = 20.0
"""Longest real time that the suite waits for something that should happen at once."""

_MINUTES_S = 60.0
"""What is awaited for longer than this is not awaited in real time where time can be moved."""

_AT_ONCE_S = 2.0
"""What needs no minutes is there after so long."""

_CRASHING_CONSUMER = """
import os, signal, sys
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
backend = Opener(SystemClock()).open(QueueURL.parse(sys.stdin.read()))
if backend.receive(max_messages=1, wait_s=5.0, lease_s=float(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""

HOOKS = {
    "raw_put": "(queue, body) -> None: send with the service's own SDK, without any queuekit metadata",
    "raw_get": "(queue) -> (body, attributes): receive with the service's own SDK",
    "restart": "() -> None: stop the server and start it again with its data",
    "pause": "() -> context manager: the server does not answer inside",
    "full": "(queue) -> the URL of the queue in a store that has no room for 4 MiB",
    "locked": "(queue) -> context manager: another process holds the store's lock inside",
    "proxy": "(queue) -> (url, TcpProxy): the queue behind a proxy, given up on as soon as can be; see `behind`",
    "old_servers": "() -> [(url, features)]: queues on servers that are too old for these features",
    "push": "(app, *, deadline_s) -> context manager: the queues of the app's handlers are pushed to it inside; "
    "gives a `Pushing`",
    "serve": "(app, *, loses) -> ExitCode: work the app's queues by having their messages pushed to it, until the "
    "app is stopped; so many of the first answers that mean done are lost",
    "deny": "(permission) -> context manager: the permission is taken away inside",
}
"""Methods that a harness may have. A case that needs one that is missing is skipped with its name."""


class Harness:
    """Subclass it for your backend; `base_url` is the one method that you must write.

    Attributes:
        virtual: Whether the backend's time comes wholly from the `Clock` that it is opened with, so that
            the suite can run it on a virtual one, and cases about hours take milliseconds.
        one_process: Whether the queue lives in this process, as memory does.
        network: Whether the service is reached over TCP, so that a proxy can stand between. Where it is not, faults
            of the network are replaced by faults of the backend's answers.
        pushed: Whether messages are pushed, so that a ready one is with somebody at once. A worker without faults of
            its own is then what the hook ``serve`` runs.
        settable: Whether the time of the service and of ``clock``, which passes as the real one does, can be moved
            ahead by `pass_time`. Where something is awaited for minutes it is moved meanwhile.
        private: Whether nobody but queuekit reads or writes the store, so that it has no raw messages.
        min_lease_s: The lease of cases that wait for its end: the shortest that is safe to time.
        min_delay_s: The delay of cases that wait for it.
        tolerance_s: How late the service may be.
        lease_s: The lease of all other cases; longer than any of them takes.
        grace_s: How much real time a busy host gets to do what is due, once a virtual clock has come to its end.
        tells_age: Whether the service says when it took a message.
        dedup_slack_s: For how long after the declared window a dedup id may still be remembered.
        silence_s: After how long a backend notices that nothing comes back any more, on a queue of the hook `proxy`.
        flood: How many messages are sent while the server is restarted.
        operations: How many operations a long run makes, unless ``QUEUEKIT_OPERATIONS`` says so.
        examples: How many random schedules the model-based cases try; fewer for a slow service. For long
            runs the environment variable ``QUEUEKIT_EXAMPLES`` wins, such as ``2000x50``: so many schedules
            of so many steps.
        url_table: Whole URLs to the queue and the options that each stands for; every form that the
            backend's page documents belongs here.
        short_dedup: Options with which dedup ids are remembered so briefly that a case can wait for it.
        stores: The idempotency stores that the cases about them are run with; see `store_url`.
        deleted_within_s: How long a queue that was deleted may still seem to be there.
        name_kept_s: How long the name of a queue that was deleted cannot be used.
        stored_settings: Options that the service keeps with the queue, each with a value that is not its
            default; none where each opening has its own.
    """

    virtual: bool = False
    one_process: bool = False
    pushed: bool = False
    settable: bool = False
    network: bool = True
    private: bool = False
    min_lease_s: float = 2.0
    min_delay_s: float = 1.0
    tolerance_s: float = 1.0
    lease_s: float = 30.0
    grace_s: float = 3.0
    tells_age: bool = True
    dedup_slack_s: float = 0.0
    silence_s: float = 10.0
    flood: int = 10_000
    operations: int = 2000
    examples: int = 10
    url_table: Mapping[str, tuple[str, Mapping[str, Any]]] = {}
    short_dedup: Mapping[str, Any] = {}
    deleted_within_s: float = 0.0
    name_kept_s: float = 0.0
    stored_settings: Mapping[str, Any] = {}
    stores: Sequence[str] = ("memory", "sqlite")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # A seed of its own: cases that share a store must not draw the same tokens.
        self.clock: Clock = VirtualClock(seed=uuid.uuid4().int) if self.virtual else SystemClock()
        self.opener: Opener = Opener(self.clock)
        self._opened: list[Backend] = []
        self._openers = [self.opener]
        self._proxies: list[TcpProxy] = []

    def base_url(self) -> str:
        """The backend's URL without a queue, or with ``{name}`` where the queue's name goes."""
        raise NotImplementedError

    def store_url(self, store: str) -> str:
        """The URL of a store that no other case uses; override it for those of your own that `stores` names."""
        return f"memory://?space={self.unique_name()}" if store == "memory" else f"sqlite:///{self.directory}/done.db"

    def url_of(self, queue: str) -> str:
        """The whole URL of a queue, which may not exist."""
        base = self.base_url()
        if "{name}" in base:
            return base.replace("{name}", queue)
        return fill_queue(QueueURL.parse(base), queue).reveal()

    def url(self, queue: str) -> str:
        """The whole URL of a queue that can be used. Override it to make the queue, where queues are declared."""
        return self.url_of(queue)

    def unique_name(self) -> str:
        """A queue name that no other case uses."""
        return f"contract-{uuid.uuid4().hex[:12]}"

    def open(self, queue: str, *, opener: BackendOpener | None = None, **options: Any) -> Backend:
        """Open a queue at the backend interface; closed by `cleanup`."""
        backend = (opener or self.opener).open(QueueURL.parse(self.url(queue)), options)
        self._opened.append(backend)
        return backend

    def limits(self, **smaller: Any) -> FaultyOpener:
        """An opener whose queues declare less than they can, so that what queuekit bridges happens in seconds.

        Args:
            **smaller: Fields of `Capabilities`, such as ``max_delay_s=2.0``.
        """
        return FaultyOpener(self.opener, **smaller)

    def another_opener(self) -> BackendOpener:
        """An opener that shares no client with `opener`, as a worker has."""
        made = Opener(self.clock)
        self._openers.append(made)
        return made

    def behind(self, host: str, port: int) -> TcpProxy:
        """A proxy in front of a server, for the hook ``proxy``; closed by `cleanup`."""
        proxy = TcpProxy(host, port)
        proxy.start()
        self._proxies.append(proxy)
        return proxy

    def dead_name(self, queue: str) -> str:
        """The name of the queue where the dead letters of ``queue`` go, where the backend keeps them."""
        return queue + DEAD_SUFFIX

    def cleanup(self) -> None:
        """Close what was opened. Override it to remove the queues of a real service too."""
        for backend in self._opened:
            backend.close()
        for opener in self._openers:
            opener.close()
        for proxy in self._proxies:
            proxy.close()

    def in_real_time(self) -> Self:
        """The same harness on the real clock, for cases in which another process takes part."""
        real = copy.copy(self)
        real.virtual = False
        real.clock = SystemClock()
        real.opener = Opener(real.clock)
        real.tolerance_s = max(self.tolerance_s, 2.0)
        self._openers.append(real.opener)
        return real

    def crash_consumer(self, queue: str, *, lease_s: float) -> None:
        """Let another process lease one message of the queue, and kill it before it can settle."""
        command = [sys.executable, "-c", _CRASHING_CONSUMER, str(lease_s)]
        ended = subprocess.run(command, input=self.url(queue), text=True, timeout=REAL_LIMIT_S, check=False)
        assert ended.returncode == -signal.SIGKILL, "the consumer could not lease the message"

    def nothing_left(self, queue: str) -> bool:  # noqa: ARG002 - for those who know
        """Whether it is known that nothing can be received now, nor later if nothing else is done."""
        return False

    def work_elsewhere(self, queue: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a process of its own: it reads the queue's URL, and works an app by ``run(app)``."""
        return subprocess.run(
            [sys.executable, "-c", RUN + program, *arguments],
            input=self.url(queue),
            capture_output=True,
            text=True,
            timeout=REAL_LIMIT_S,
            check=False,
        )

    def consume_elsewhere(self, queue: str, log: Path) -> OtherConsumer:
        """Let another process consume the queue on the real time, and note in the log what it handles."""
        return OtherConsumer(self.url(queue), log)

    def hook(self, name: str) -> Callable[..., Any]:
        """One of `HOOKS`; skips the case, and says so, where the harness has it not."""
        found: Callable[..., Any] | None = getattr(self, name, None)
        if found is None:
            pytest.skip(f"the harness has no hook {name!r}: {HOOKS[name]}")
        return found

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the backend declares after its probe, on a queue of its own."""
        return self.open(self.unique_name()).probe()

    def pass_time(self, seconds: float) -> None:
        """Let time pass: moved at once on a virtual clock, waited for on the real one."""
        if isinstance(self.clock, VirtualClock):
            self.clock.advance(seconds)
        else:
            threading.Event().wait(seconds)

    def most_of(self, seconds: float) -> float:
        """Nearly as long: what happens next must be over before the time is, and takes some of it in reality."""
        return 0.9 * seconds if self.virtual else 0.6 * seconds

    def start(self, call: Callable[[], T]) -> Running[T]:
        """Run a call that may block on a thread of its own."""
        return Running(call, self.clock)

    def until_blocked(self, threads: int = 1) -> None:
        """Return once that many threads wait on the virtual clock; on the real one, after a moment."""
        if isinstance(self.clock, VirtualClock):
            self.clock.wait_for_waiters(threads)
        else:
            threading.Event().wait(0.2)

    def until(
        self, true: Callable[[], object], *, within_s: float, what: str, steps: int = 100, pause_s: float = 0.002
    ) -> None:
        """Let time pass in steps until something is true; fails the case when it does not become so.

        Args:
            true: What is waited for.
            within_s: How much time of the harness's clock may pass. With 0, a virtual clock stands still.
            what: For the failure.
            steps: In how many steps a virtual clock moves.
            pause_s: Real time that other threads get to act before each step.
        """
        end, real = self.clock.monotonic() + within_s, SystemClock()
        began = real.monotonic()
        patience = began + REAL_LIMIT_S
        while not true():
            moves = self.virtual or (
                self.settable and within_s > _MINUTES_S and real.monotonic() > began + _AT_ONCE_S
            )
            on_time = self.clock.monotonic() < end
            if moves and not on_time and within_s:
                patience = min(patience, real.monotonic() + self.grace_s)
            if not (on_time or moves) or real.monotonic() > patience:
                pytest.fail(f"not within {within_s:g} s: {what}")
            self._let_others_act(pause_s if self.virtual else 0.02)
            if moves and on_time:
                self.pass_time(within_s / steps)

    def _let_others_act(self, pause_s: float) -> None:
        """Give other threads some real time; more of it where this one came back late, as on a busy host."""
        real, quiet = SystemClock(), threading.Event()
        began = real.monotonic()
        quiet.wait(pause_s)
        late_s = real.monotonic() - began - pause_s
        if late_s > pause_s:
            quiet.wait(min(4 * late_s, 0.1))

    def until_kept(self, kept: Callable[[], bool]) -> None:
        """After more than half of a lease, wait until the engine has extended it.

        It has half a lease for that. Time moves slowly here: the engine's thread may be starved for a
        moment, and must not lose the lease for it.
        """
        for _ in range(25):
            if kept():
                return
            threading.Event().wait(0.002)
        self.until(kept, within_s=0.3 * self.min_lease_s, what="the lease is kept", steps=15, pause_s=0.05)

    def let(self, call: Callable[[], T], *, within_s: float = 60.0) -> T:
        """Run a call that may wait, and let time pass until it has ended."""
        running = self.start(call)
        running.join(0.02)
        self.until(lambda: running.done, within_s=within_s, what="the call ends")
        return running.result()

    @contextmanager
    def closing(self, consumer: Consumer[T]) -> Iterator[Consumer[T]]:
        """Inside, the consumer; at the end it is closed while time passes, as what it settles may have to wait.

        By its own ``with`` a case that fails would wait for ever on a virtual clock.
        """
        try:
            yield consumer
        finally:
            self.let(consumer.close)


class Running(Generic[T]):
    """A call on its own thread, with the time of its end on the harness's clock."""

    def __init__(self, call: Callable[[], T], clock: Clock) -> None:
        self._call = call
        self._clock = clock
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.started_at: float = clock.monotonic()
        self.ended_at: float = self.started_at
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:  # noqa: BLE001  carried to the case's own thread
            self._error = error
        self.ended_at = self._clock.monotonic()

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return not self._thread.is_alive()

    def join(self, real_s: float) -> None:
        """Give the call some real time."""
        self._thread.join(real_s)

    @property
    def took_s(self) -> float:
        """How long the call took, on the harness's clock."""
        return self.ended_at - self.started_at

    def result(self, what: str = "the call") -> T:
        """What the call returned or raised; fails the case when it does not end."""
        self._thread.join(REAL_LIMIT_S)
        if not self.done:
            pytest.fail(f"{what} did not end within {REAL_LIMIT_S:g} s of real time")
        if self._error is not None:
            raise self._error
        return self._result[0]
