# SPDX-License-Identifier: Apache-2.0
"""dramatiq: its Redis broker as it comes, which acks after the actor; it has no sending in bulk."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from measuring import URL, Payload, handled, send_on_command

dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor(queue_name="bench")
def handle(payload: Payload) -> None:
    handled(payload)


if __name__ == "__main__":
    send_on_command(lambda payloads: [handle.send(each) for each in payloads], handle.send)
