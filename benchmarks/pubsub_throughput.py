# SPDX-License-Identifier: Apache-2.0
"""queuekit on pubsub:// against Google's bare generated clients, on an emulator that the script starts itself.

The emulator shares the host with both, and hands out a hundred messages a pull whatever it is asked for: so times
swing, and the contests marked ``CPU`` compare what this process alone spends. Ours opens its queue anew in each
measurement, and its messages carry an attribute more.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import grpc
from google import pubsub_v1
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

from _bench import Contest, Part, arguments, begin, compare
from _payloads import EMAIL, Email, dump, emails
from queuekit import App, Consumer, Producer
from queuekit.testing.emulators import LocalPubSub, pubsub_program

_BATCH = 1000


class Bare:
    """Topics and subscriptions as one would use them by hand: calls of 1,000, one after the other."""

    def __init__(self, server: LocalPubSub) -> None:
        channel = grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)])
        self._publisher: Any = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self._subscriber: Any = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        self.name = f"bench-{uuid.uuid4().hex[:12]}"
        self.project = "bench"
        self._topic = f"projects/{self.project}/topics/{self.name}"
        self._subscription = f"projects/{self.project}/subscriptions/{self.name}"
        self._publisher.create_topic(request={"name": self._topic})
        settings = {"name": self._subscription, "topic": self._topic, "ack_deadline_seconds": 60}
        self._subscriber.create_subscription(request=settings)

    def send(self, payloads: Sequence[Email]) -> None:
        for start in range(0, len(payloads), _BATCH):
            messages = [{"data": dump(EMAIL, each)} for each in payloads[start : start + _BATCH]]
            self._publisher.publish(request={"topic": self._topic, "messages": messages}, retry=None, timeout=30)

    def drain(self, count: int) -> None:
        left = count
        while left > 0:
            request = {"subscription": self._subscription, "max_messages": _BATCH}
            found = self._subscriber.pull(request=request, retry=None, timeout=10).received_messages
            ids = []
            for each in found:
                EMAIL.validate_json(each.message.data)
                ids.append(each.ack_id)
            if ids:
                acks = {"subscription": self._subscription, "ack_ids": ids}
                self._subscriber.acknowledge(request=acks, retry=None, timeout=10)
            left -= len(ids)


class Ours:
    """The same through queuekit."""

    def __init__(self, server: LocalPubSub) -> None:
        made = Bare(server)
        self._url, self._queue = f"pubsub://{made.project}?endpoint={server.address}", made.name

    def send(self, payloads: Sequence[Email]) -> None:
        with Producer(self._url, queue=self._queue, payload=Email) as producer:
            for start in range(0, len(payloads), 10 * _BATCH):
                producer.send_many(payloads[start : start + 10 * _BATCH]).raise_for_failures()

    def consume(self, count: int) -> None:
        with Consumer(self._url, queue=self._queue, payload=Email) as consumer:
            for delivery in itertools.islice(consumer, count):
                _ = delivery.payload
                delivery.ack()

    def work(self, count: int) -> None:
        app, numbers = App(self._url), itertools.count(1)

        @app.handler(self._queue)
        def handle(_email: Email) -> None:
            if next(numbers) == count:
                app.stop()

        app.run(signals=False)
        app.close()


Timer = Callable[[], float]


def _bare(server: LocalPubSub, timer: Timer, *, drain: bool) -> Part:
    def run(count: int) -> float:
        payloads, queue = emails(count), Bare(server)
        sending = _measured(lambda: queue.send(payloads), timer)
        draining = _measured(lambda: queue.drain(count), timer)
        return draining if drain else sending

    return run


def _sending(server: LocalPubSub, timer: Timer) -> Part:
    def run(count: int) -> float:
        payloads, queue = emails(count), Ours(server)
        return _measured(lambda: queue.send(payloads), timer)

    return run


def _draining(server: LocalPubSub, timer: Timer, take: Callable[[Ours, int], None]) -> Part:
    def run(count: int) -> float:
        queue = Ours(server)
        queue.send(emails(count))
        return _measured(lambda: take(queue, count), timer)

    return run


def _measured(step: Callable[[], None], timer: Timer) -> float:
    begin()
    started = timer()
    step()
    return timer() - started


def _contests(server: LocalPubSub, timer: Timer, mark: str) -> list[Contest]:
    drained = _bare(server, timer, drain=True)
    return [
        Contest(f"pubsub, send_many{mark}", _bare(server, timer, drain=False), _sending(server, timer), 0.6),
        Contest(f"pubsub, drain by Consumer{mark}", drained, _draining(server, timer, Ours.consume), 0.7),
        Contest(f"pubsub, worker, sync handler{mark}", drained, _draining(server, timer, Ours.work), 0.7),
    ]


@contextmanager
def _server() -> Iterator[LocalPubSub]:
    program = pubsub_program()
    if program is None:
        raise SystemExit("Google's Pub/Sub emulator and Java are needed: gcloud components install pubsub-emulator")
    with LocalPubSub(program) as server:
        yield server


def main() -> None:
    options = arguments(__doc__ or "", messages=20_000).parse_args()
    with _server() as server:
        contests = [*_contests(server, perf_counter, ""), *_contests(server, process_time, ", CPU")]
        compare(contests, options)


if __name__ == "__main__":
    main()
