# SPDX-License-Identifier: Apache-2.0
"""What users write and type checkers must take. Read by type checkers; never run."""

from concurrent.futures import Future
from datetime import timedelta
from typing import assert_type

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
