# SPDX-License-Identifier: Apache-2.0
"""taskiq with RedisStreamBroker, the one of taskiq-redis that acks; bulk is a hundred sends at once."""

import asyncio
from collections.abc import Sequence

from measuring import SCENARIO, URL, Payload, ahandled, asend_on_command, handled
from taskiq_redis import RedisStreamBroker

_AT_ONCE = 100

# By default redis-py gives up after 5 s, and a worker is stopped for longer while its queue is filled slowly.
broker = RedisStreamBroker(URL, socket_timeout=120)

if SCENARIO == "cpu":

    @broker.task(task_name="bench")
    def handle(payload: Payload) -> None:
        handled(payload)

else:

    @broker.task(task_name="bench")
    async def handle(payload: Payload) -> None:
        await ahandled(payload)


async def _many(payloads: Sequence[Payload]) -> None:
    for start in range(0, len(payloads), _AT_ONCE):
        await asyncio.gather(*map(handle.kiq, payloads[start : start + _AT_ONCE]))


async def _send() -> None:
    await broker.startup()
    await asend_on_command(_many, handle.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_send())
