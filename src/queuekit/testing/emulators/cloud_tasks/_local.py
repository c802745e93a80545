# SPDX-License-Identifier: Apache-2.0
"""The whole emulator, in this process."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from queuekit._values.clock import Clock, SystemClock
from queuekit.testing.emulators.cloud_tasks._batches import Batches
from queuekit.testing.emulators.cloud_tasks._clock import RunningClock
from queuekit.testing.emulators.cloud_tasks._control import Control
from queuekit.testing.emulators.cloud_tasks._emulator import Emulator
from queuekit.testing.emulators.cloud_tasks._service import Service, serve
from queuekit.testing.emulators.cloud_tasks._targets import LOOPBACK, Targets
from queuekit.testing.emulators.cloud_tasks._tokens import GOOGLE, Signer

_QUIET_S = 20.0


class SettableClock(Clock, Protocol):
    """A clock that can be moved on, such as `queuekit.testing.VirtualClock`."""

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds, and wake those who wait."""
        ...


class LocalCloudTasks:
    """Google Cloud Tasks on the loopback interface, in this process.

    Args:
        port: Where gRPC is served; 0 for any free one.
        control_port: Where certificates and the clock are served over HTTP; 0 for any free one.
        clock: Its time. By default the real one, which `advance` moves ahead; with a
            `queuekit.testing.VirtualClock` nothing is due before it is moved.
        outside: The time of those who get the tokens; by default the real one.
        state: A SQLite file that queues, tasks and names are kept in; without it they end with the emulator.
        allow: Hosts beside this one's loopback interface that tasks may be sent to: names, addresses, networks.
        issuer: Of OIDC tokens; by default Google's own. ``"own"`` is the URL of this emulator.
        ca_file: An authority whose certificates are trusted, for targets with TLS, beside the system's.
        tell: Told of every attempt, in a line; must not call the emulator.

    Raises:
        RuntimeError: The port, or the file, is in use.
        OSError: The control port is in use.

    Concurrency:
        Safe from any thread.

    Examples:
        ```python
        from datetime import UTC, datetime, timedelta

        from queuekit.testing.emulators import LocalCloudTasks

        with LocalCloudTasks() as emulator, emulator.client() as client:
            location = "projects/shop/locations/here"
            queue = client.create_queue(parent=location, queue={"name": f"{location}/queues/orders"})
            in_an_hour = datetime.now(UTC) + timedelta(hours=1)
            task = {"http_request": {"url": "http://127.0.0.1:9/nobody"}, "schedule_time": in_an_hour}
            name = client.create_task(parent=queue.name, task=task).name
            assert client.get_task(name=name).dispatch_count == 0
            emulator.advance(timedelta(hours=1))
            emulator.wait_until_quiet()
            assert client.get_task(name=name).dispatch_count >= 1
        ```
    """

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        clock: SettableClock | None = None,
        outside: Clock | None = None,
        state: Path | None = None,
        allow: Sequence[str] = (),
        issuer: str = GOOGLE,
        ca_file: Path | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock or RunningClock()
        outside = outside or SystemClock()
        context = cache(partial(_context, ca_file))
        if ca_file is not None:
            context()  # a file that is none is told now
        targets = Targets([*LOOPBACK, *allow])
        with ExitStack() as closing:
            signer = Signer(outside, issuer)
            pages = {"/certs": signer.certificates, "/.well-known/openid-configuration": self._about}
            self._control = Control(control_port, pages=pages, advance=self._clock.advance)
            closing.callback(self._control.close)
            if issuer == "own":
                signer.issuer = self._control.url
            self.issuer: str = signer.issuer
            """Of the tokens."""
            emulator = Emulator(
                clock=self._clock,
                outside=outside,
                state=state,
                targets=targets,
                signer=signer,
                context=context,
                tell=tell or _say_nothing,
            )
            closing.callback(emulator.close)
            server, bound = serve(Service(emulator, Batches(emulator.new_id)), port)
            closing.callback(lambda: server.stop(grace=1).wait())
            self._closing = closing.pop_all()
        self._emulator = emulator
        self.address: str = f"127.0.0.1:{bound}"
        """Where gRPC is served, for the option ``endpoint``."""

    @property
    def certs_url(self) -> str:
        """Where the key of the tokens is published, as a JSON Web Key Set."""
        return f"{self._control.url}/certs"

    @property
    def control_url(self) -> str:
        """The root of the HTTP server."""
        return self._control.url

    def client(self) -> tasks_v2.CloudTasksClient:
        """A client of Google's own that speaks to this emulator; close it, or use it as a context."""
        channel = grpc.insecure_channel(self.address)
        return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def advance(self, by: timedelta) -> None:
        """Let time pass: what becomes due is dispatched. Tokens and targets keep the real time.

        Raises:
            ValueError: Time does not go back.
        """
        self._clock.advance(by.total_seconds())

    def wait_until_quiet(self, timeout: timedelta = timedelta(seconds=_QUIET_S)) -> None:
        """Wait until nothing is on its way and nothing is due at this time, apart from paused queues.

        On the real clock that includes what waits for its queue's rate. Where only `advance` lets time pass, a task
        that waits for a token of the rate does not count.

        Args:
            timeout: Of real time, which is what targets need.

        Raises:
            TimeoutError: There was still something to do.
        """
        if not self._emulator.wait_until_quiet(timeout.total_seconds()):
            msg = f"tasks were still on their way or due after {timeout}"
            raise TimeoutError(msg)

    def close(self) -> None:
        """End it. What is on its way is cut off; a state file holds it as an attempt without an answer."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _about(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": self.certs_url,
            "id_token_signing_alg_values_supported": ["RS256"],
        }


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _say_nothing(_line: str) -> None:
    pass
