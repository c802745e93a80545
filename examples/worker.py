# SPDX-License-Identifier: Apache-2.0
"""An app with two queues: sync and async handlers, one that asks for another try, one that gives up.

Run it with ``python examples/worker.py``, which sends a few messages first, or work the same queues with
``queuekit worker examples.worker:app``. Messages wait in ``queuekit.db`` unless ``QUEUEKIT_URL`` says otherwise;
Ctrl-C drains and ends.
"""

import logging
from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk

app = qk.App()
logger = logging.getLogger("shop")


class Order(BaseModel):
    """An order to be paid."""

    number: int
    cents: int


@app.handler("orders", retry=qk.RetryPolicy(max_attempts=3))
def charge(order: Order) -> qk.Retry | qk.DeadLetter | None:
    """A sync handler runs on a thread. What it returns settles the message."""
    if order.cents <= 0:
        return qk.DeadLetter("an order that costs nothing")
    if order.number == 2 and qk.current().attempt == 1:
        logger.info("order %d: the bank is busy", order.number)
        return qk.Retry(delay=timedelta(seconds=0.1))
    logger.info("order %d: charged %.2f", order.number, order.cents / 100)
    greet.send(f"customer of order {order.number}", ordering_key="greetings")
    return None


@app.handler("greetings", concurrency=50)
async def greet(name: str) -> None:
    """An async handler runs on an event loop, beside many others."""
    logger.info("thank you, %s", name)


def main() -> None:
    """Send some orders, then work until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    charge.send_many([Order(number=1, cents=999), Order(number=2, cents=100), Order(number=3, cents=0)])
    with app:
        app.run()


if __name__ == "__main__":
    main()
