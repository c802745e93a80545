# SPDX-License-Identifier: Apache-2.0
"""A Starlette application with a page of its own, to which Pub/Sub pushes orders below /queues/.

Run it with ``uvicorn shop:web``; README.md says what to set up.
"""

import os

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import queuekit as qk
from queuekit.push import OIDC, NoAuth

app = qk.App(os.environ["QUEUEKIT_URL"])  # such as pubsub://my-project


class Order(BaseModel):
    """What is pushed."""

    number: int
    cents: int


@app.handler("orders", retry=qk.RetryPolicy(max_attempts=5), dead_letter=os.environ.get("ORDERS_DEAD"))
def charge(order: Order) -> qk.DeadLetter | None:
    """Charge an order; a sync handler runs on a thread."""
    if order.cents == 0:
        return qk.DeadLetter("an order that costs nothing")
    print(f"order {order.number}: charged {order.cents / 100:.2f}", flush=True)
    return None


audience = os.environ.get("PUSH_AUDIENCE")
endpoint = app.asgi(
    auth=OIDC(audience=audience, service_account=os.environ["PUSH_ACCOUNT"]) if audience else NoAuth()
)


def home(_request: object) -> PlainTextResponse:
    """The site's own page."""
    return PlainTextResponse("a shop")


# A mounted application is not told when the server starts and stops; the one around it passes that on.
web = Starlette(routes=[Route("/", home), Mount("/queues", endpoint)], lifespan=endpoint.lifespan)
