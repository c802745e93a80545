# SPDX-License-Identifier: Apache-2.0
"""What users must not write. A type checker must report each line that ends in ``# E``, and no other."""

from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk


class Email(BaseModel):
    to: str


app = qk.App("memory://")


@app.handler("emails")
def send_email(email: Email) -> None: ...


@app.handler("slow")
async def later(email: Email) -> None: ...


@app.handler()  # E
def without_a_queue(email: Email) -> None: ...


@app.handler("emails", lease=60)  # E
def with_a_bare_number(email: Email) -> None: ...


@app.handler("emails", leases=timedelta(seconds=60))  # E
def with_an_unknown_option(email: Email) -> None: ...


@app.handler("emails")  # E
def with_two_payloads(email: Email, other: Email) -> None: ...


@app.batch_handler("events")  # E
def with_one_payload(email: Email) -> None: ...


@app.batch_handler("events", max_wait=5)  # E
def with_bare_seconds(batch: qk.Batch[Email]) -> None: ...


@app.batch_handler("events", on_error="ignore")  # E
def with_an_unknown_way(batch: qk.Batch[Email]) -> None: ...


@app.batch_handler("events")
def load(batch: qk.Batch[Email]) -> None:
    batch[0].retry(timedelta(seconds=1))  # E
    batch[0].dead_letter()  # E
    _ = batch[0].payload.subject  # E
    qk.BatchResult([batch[0]])  # E


def around() -> None:
    qk.App("memory://", middleware=[print])  # E
    app.listen(print, "complete")  # E
    load.send("ada")  # E
    load(Email(to="ada"))  # E


async def sends() -> None:
    send_email.send("ada")  # E
    send_email.send()  # E
    send_email.send(Email(to="ada"), dellay=timedelta(hours=2))  # E
    send_email.send(Email(to="ada"), delay=7200)  # E
    send_email.send(Email(to="ada"), timedelta(hours=2))  # E
    send_email.send_many(Email(to="ada"))  # E
    send_email.send(qk.Message("ada"))  # E
    send_email("ada")  # E
    await later.asend({"to": "ada"})  # E
    await later.asend(Email(to="ada"), priority="high")  # E


def producers() -> None:
    emails = qk.Producer("memory://q", payload=Email)
    emails.send("ada")  # E
    emails.send(Email(to="ada"), ordering_key=5)  # E
    qk.Producer("memory://q").send("text")  # E
    qk.Producer("memory://q", timeout=5)  # E


def consumers() -> None:
    consumer = qk.Consumer("memory://q", payload=Email)
    consumer.receive(5)  # E
    delivery = consumer.receive(timeout=5)
    delivery.ack()  # E
    for each in consumer:
        _ = each.payload.subject  # E
        each.retry(timedelta(seconds=1))  # E
        each.dead_letter()  # E
        each.extend(by=60)  # E
        each.nack()  # E
