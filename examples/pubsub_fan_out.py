# SPDX-License-Identifier: Apache-2.0
"""Every order is billed and shipped: two subscriptions of one Pub/Sub topic, and a worker for both.

Each subscription needs a dead-letter policy: where several read a topic, nobody else counts attempts. Make them with
Google's own tools, then run ``python pubsub_fan_out.py my-project``; with ``PUBSUB_EMULATOR_HOST`` set, an emulator
is used.

    gcloud pubsub topics create orders orders-dead
    gcloud pubsub subscriptions create orders-dead --topic=orders-dead --expiration-period=never
    gcloud pubsub subscriptions create billing --topic=orders --expiration-period=never \
        --dead-letter-topic=orders-dead --max-delivery-attempts=50
    gcloud pubsub subscriptions create shipping --topic=orders --expiration-period=never \
        --dead-letter-topic=orders-dead --max-delivery-attempts=50
"""

import sys

from pydantic import BaseModel

import queuekit as qk

project = sys.argv[1] if len(sys.argv) > 1 else "my-project"
app = qk.App()


class Order(BaseModel):
    """What was ordered."""

    number: int
    item: str


@app.handler(f"pubsub://{project}/orders?subscription=billing", default=True)
def bill(order: Order) -> None:
    """Gets every order."""
    print(f"order {order.number}: billed {order.item}")


@app.handler(f"pubsub://{project}/orders?subscription=shipping", default=True)
def ship(order: Order) -> None:
    """Gets every order too, and neither waits for the other."""
    print(f"order {order.number}: shipped {order.item}")


if __name__ == "__main__":
    with qk.Producer(f"pubsub://{project}/orders?subscription=billing", payload=Order) as orders:
        orders.send(Order(number=1, item="tea"))
    sys.exit(app.run())
