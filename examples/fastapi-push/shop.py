# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application that takes orders, and to which Pub/Sub pushes them again below /queues/.

Run it with ``uvicorn shop:web``; README.md says what to set up.
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

import queuekit as qk
from queuekit.push import OIDC, NoAuth

app = qk.App(os.environ["QUEUEKIT_URL"])  # such as pubsub://my-project


class Order(BaseModel):
    """What is pushed."""

    number: int
    cents: int


@app.handler("orders", retry=qk.RetryPolicy(max_attempts=5), dead_letter=os.environ.get("ORDERS_DEAD"))
async def charge(order: Order) -> qk.DeadLetter | None:
    """Charge an order; an async handler runs on the server's own event loop."""
    if order.cents == 0:
        return qk.DeadLetter("an order that costs nothing")
    print(f"order {order.number}: charged {order.cents / 100:.2f}", flush=True)
    return None


audience = os.environ.get("PUSH_AUDIENCE")
endpoint = app.asgi(
    auth=OIDC(audience=audience, service_account=os.environ["PUSH_ACCOUNT"]) if audience else NoAuth()
)
web = FastAPI(lifespan=endpoint.lifespan)
web.mount("/queues", endpoint)


@web.post("/orders", status_code=202)
async def take(order: Order) -> dict[str, str]:
    """Take an order: it is in the queue when this answers."""
    sent = await charge.asend(order)
    return {"message": sent.message_id}
