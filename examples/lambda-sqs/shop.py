# SPDX-License-Identifier: Apache-2.0
"""An app whose handlers run in AWS Lambda. The same file runs as a worker: ``queuekit worker shop:app``."""

import logging
import os
from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk

logging.getLogger("queuekit").setLevel(logging.INFO)

app = qk.App(os.environ.get("QUEUEKIT_URL", "sqs://eu-west-1"))
MAX_ATTEMPTS = 5


class Order(BaseModel):
    """An order to be paid."""

    number: int
    cents: int


@app.handler(
    "orders",
    timeout=timedelta(seconds=20),
    retry=qk.RetryPolicy(max_attempts=MAX_ATTEMPTS),
    dead_letter=os.environ.get("ORDERS_DEAD"),
)
def charge(order: Order) -> qk.Retry | qk.DeadLetter | None:
    """Charge one order; the others of the event are charged at the same time, on other threads."""
    if order.cents <= 0:
        return qk.DeadLetter("an order that costs nothing")
    if order.number % 10 == 3 and qk.current().attempt == 1:
        return qk.Retry(delay=timedelta(seconds=30))
    logging.getLogger("shop").info("order %d: charged %d.%02d", order.number, *divmod(order.cents, 100))
    return None


handler = app.aws_lambda()
