# SPDX-License-Identifier: Apache-2.0
"""What users write and type checkers must take. Read by type checkers; never run."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel

import queuekit as qk


class Email(BaseModel):
    to: str


app = qk.App("memory://")


@app.handler("emails", retry=qk.RetryPolicy(max_attempts=8), lease=timedelta(seconds=60))
def send_email(email: Email) -> None:
    assert_type(qk.current().attempt, int | None)


@app.handler("slow")
async def later(email: Email) -> qk.Retry | None:
    return None


class Tracing(qk.Middleware):
    def before_send(self, message: qk.Message[Any], *, queue: str) -> qk.Message[Any]:
        return message

    @contextmanager
    def handling(self, delivery: qk.Current) -> Iterator[None]:
        assert_type(delivery.attempt, int | None)
        yield


traced = qk.App("memory://", middleware=[Tracing()])
qk.Producer("memory://q", middleware=(Tracing(),))
traced.listen(lambda event: assert_type(event.delay_s, float | None), "retried", "dead")


@traced.batch_handler("events", max_size=10, max_wait=timedelta(seconds=2), on_error="bisect", strict=True)
def load(batch: qk.Batch[Email]) -> qk.BatchResult | None:
    assert_type(batch[0], qk.BatchEntry[Email])
    assert_type(batch.payloads, list[Email])
    for entry in batch:
        assert_type(entry.payload, Email)
        entry.retry(delay=timedelta(seconds=1))
    return qk.BatchResult(retry=[batch[0], "id"], dead_letter=[batch[1]])


@traced.batch_handler("async-events")
async def aload(batch: qk.Batch[Email]) -> None:
    batch[0].release()


def batch_sends(batch: qk.Batch[Email]) -> None:
    assert_type(
        load.send(Email(to="ada"), max_attempts=3, retry_delay=timedelta(seconds=5)), qk.Accepted | qk.Duplicate
    )
    assert_type(load(batch), qk.BatchResult | None)
    assert_type(qk.BatchResult().to_lambda_response(batch, all_failed="raise"), dict[str, list[dict[str, str]]])


def sends(message: qk.Message[Email]) -> None:
    assert_type(send_email.send(Email(to="ada")), qk.Accepted | qk.Duplicate)
    send_email.send(Email(to="ada"), delay=timedelta(hours=2), ordering_key="k", dedup_id="d", priority=3)
    send_email.send(message)
    assert_type(send_email.send_many([Email(to="ada"), message]), qk.SendReport)
    assert_type(send_email.send_soon(Email(to="ada"), attributes={"a": "b"}), Future[qk.SendOutcome])
    assert_type(send_email(Email(to="a plain call")), None)


async def asends() -> None:
    assert_type(await later.asend(Email(to="ada"), expires_in=timedelta(days=1)), qk.Accepted | qk.Duplicate)
    assert_type(await later.asend_many([Email(to="ada")]), qk.SendReport)
    await later(Email(to="a plain call"))


def producers() -> None:
    assert_type(qk.Producer("memory://q"), qk.Producer[bytes])
    with qk.Producer("memory://q", payload=Email) as emails:
        assert_type(emails, qk.Producer[Email])
        emails.send(Email(to="ada"))
        emails.send(qk.Message(Email(to="ada"), delay=timedelta(minutes=1)))
    assert_type(qk.Producer("memory://q", payload=list[Email]), qk.Producer[list[Email]])
    assert_type(qk.Producer("memory://q", payload=int | str), qk.Producer[int | str])
    qk.Producer("memory://q", payload=str, dedup_window=timedelta(hours=2), timeout=timedelta(seconds=3)).send("x")


async def consumers() -> None:
    with qk.Consumer("memory://q", payload=Email) as consumer:
        assert_type(consumer.receive(timeout=5), qk.Delivery[Email] | None)
        for delivery in consumer:
            assert_type(delivery.payload, Email)
            delivery.retry(delay=timedelta(seconds=1))
    async with qk.Consumer("memory://q") as raw:
        assert_type(await raw.areceive(timeout=timedelta(seconds=5)), qk.Delivery[bytes] | None)
        async for each in raw:
            assert_type(each.payload, bytes)
            await each.aextend(by=timedelta(seconds=60))
