# SPDX-License-Identifier: Apache-2.0
"""Where the queues of a test are, and what can be told of them without taking a message out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import boto3

import queuekit as qk
from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL, SystemClock
from queuekit.testing.proxy import TcpProxy


class Place:
    """A store that belongs to a test.

    Args:
        backend: The scheme.
        app_url: The URL without a queue.
    """

    peeks = True
    """Whether it can be seen which messages are leased."""
    least_lease_s = 1.0
    """Of handlers that hold what they have until they are killed."""
    lease_s = 2.0
    """Of handlers that are killed under load."""
    most_attempts = 500
    """Of handlers whose messages lose attempts to kills and lost answers, and must not die of it."""

    def __init__(self, backend: str, app_url: str) -> None:
        self.backend = backend
        self.app_url = app_url

    @property
    def port(self) -> int:
        """Where the server listens."""
        return int(self.app_url.rpartition(":")[2].partition("/")[0])

    def url(self, queue: str, **options: str) -> str:
        """The URL of a queue, which is there from now on."""
        if self.backend == "memory":
            return f"memory://{queue}"
        return f"{self.app_url}?queue={queue}" + "".join(f"&{name}={value}" for name, value in options.items())

    def behind(self, proxy: TcpProxy) -> Place:
        """The same queues, through a proxy."""
        return Place(self.backend, proxy.through(self.app_url))

    def counts(self, queue: str, **options: Any) -> tuple[int, int]:
        """How many messages a queue still holds, leased and delayed ones included; and how many dead letters."""
        with qk.Consumer(self.url(queue), **options) as consumer:
            backend: Any = consumer._link.backend
            stats = backend.stats()
        return int(stats.ready + stats.delayed + stats.leased), int(stats.dead or 0)

    def left(self, queue: str, **options: Any) -> int:
        """How many messages a queue still holds, leased and delayed ones included."""
        return self.counts(queue, **options)[0]

    def leased(self, queue: str) -> int:
        """How many messages of a queue are leased."""
        with qk.Consumer(self.url(queue)) as consumer:
            backend: Any = consumer._link.backend
            return int(backend.stats().leased)

    def unacked(self, _queue: str) -> set[str]:
        """The ids of what is not acknowledged, leased or not, where nothing else tells what is leased."""
        return set()

    def letters(self, queue: str, **options: Any) -> list[qk.DeadMessage]:
        """The dead letters of a queue."""
        with qk.DeadLetters(self.url(queue), **options) as dead:
            return list(dead.letters())


class DeclaredPlace(Place):
    """A place whose queues are made before they are used, and stand in the path of its URL."""

    def make(self, queue: str) -> None:
        """Make a queue, and one for its dead letters, where they are not there yet."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        return int(self.app_url.partition("?")[2].rpartition(":")[2].partition("&")[0])

    def url(self, queue: str, **options: str) -> str:
        self.make(queue)
        return self._url(self.app_url, queue) + "".join(f"&{name}={value}" for name, value in options.items())

    def behind(self, proxy: TcpProxy) -> Self:
        there = object.__new__(type(self))
        there.__dict__ = {**self.__dict__, "app_url": proxy.through(self.app_url)}
        return there

    @staticmethod
    def _url(app_url: str, queue: str) -> str:
        return app_url.replace("?", f"/{queue}?", 1)


class SqsPlace(DeclaredPlace):
    """A region of a local server, where no other test has queues; each is made before it is used.

    Args:
        endpoint: Where the server is.
        region: Its name.
    """

    peeks = False
    least_lease_s = 2.0

    def __init__(self, endpoint: str, region: str) -> None:
        super().__init__("sqs", f"sqs://{region}?endpoint={endpoint}&poll=1s")
        self._direct = self.app_url
        self._client: Any = boto3.client("sqs", region_name=region, endpoint_url=endpoint)
        self._addresses = dict[str, str]()
        self.address("jobs")  # which most rows use

    def make(self, queue: str) -> None:
        self.address(queue)

    def address(self, queue: str) -> str:
        """What the service calls a queue; it is made, with one for its dead letters, where it is not there yet."""
        if queue not in self._addresses:
            opener = Opener(SystemClock())
            backend: Any = opener.open(QueueURL.parse(self._url(self._direct, queue)), {"max_receives": 1000})
            backend.create()
            opener.close()
            for name in (queue, self.dead_name(queue)):
                self._addresses[name] = self._client.get_queue_url(QueueName=name)["QueueUrl"]
        return self._addresses[queue]

    def dead_name(self, queue: str) -> str:
        """The queue of a queue's dead letters."""
        stem, fifo, _ = queue.partition(".fifo")
        return f"{stem}-dead{fifo}"

    def delete(self, queue: str) -> None:
        """Remove a queue until `create` makes it again."""
        self._client.delete_queue(QueueUrl=self.address(queue))

    def create(self, queue: str) -> None:
        """Make a queue that was deleted."""
        self._client.create_queue(QueueName=queue)

    def change(self, queue: str, **settings: str) -> None:
        """Change settings of a queue, by the service's own names."""
        self._client.set_queue_attributes(QueueUrl=self.address(queue), Attributes=settings)

    def refuse(self, queue: str) -> Callable[[], None]:
        """Have a queue take no body of more than a KiB; returns what ends that."""
        self.change(queue, MaximumMessageSize="1024")
        return lambda: self.change(queue, MaximumMessageSize="1048576")

    def counts(self, queue: str, **options: Any) -> tuple[int, int]:
        self.address(queue)
        return sum(self._counts(queue)), sum(self._counts(self.dead_name(queue)))

    def leased(self, queue: str) -> int:
        return self._counts(queue)[2]

    def close(self) -> None:
        """Remove the queues."""
        for address in self._addresses.values():
            with suppress(self._client.exceptions.QueueDoesNotExist):  # removed by the test itself
                self._client.delete_queue(QueueUrl=address)
        self._client.close()

    def _counts(self, queue: str) -> tuple[int, int, int]:
        told = self._client.get_queue_attributes(QueueUrl=self.address(queue), AttributeNames=["All"])["Attributes"]
        ready, delayed, leased = (
            int(told[f"ApproximateNumberOfMessages{each}"]) for each in ("", "Delayed", "NotVisible")
        )
        return ready, delayed, leased
