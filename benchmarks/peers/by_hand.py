# SPDX-License-Identifier: Apache-2.0
"""redis-py with hiredis, a stream and a group, a hundred at a time: no retries, no leases, no dead letters."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from measuring import SCENARIO, URL, Payload, ahandled, handled, send_on_command

_BATCH = 100
_STREAM, _GROUP = "bench", "workers"
# Two processes that calculate would not come to their ends together if each took a hundred.
_READ: dict[str, Any] = {"streams": {_STREAM: ">"}, "count": 10 if SCENARIO == "cpu" else _BATCH, "block": 1000}


def _prepare() -> None:
    with redis.Redis.from_url(URL) as client:
        try:
            client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
        except redis.ResponseError:
            return  # the other process was first


def work() -> None:
    client: Any = redis.Redis.from_url(URL)
    while True:
        for _, entries in client.xreadgroup(_GROUP, str(os.getpid()), **_READ) or ():
            for _, fields in entries:
                handled(json.loads(fields[b"body"]))
            ids = [entry_id for entry_id, _ in entries]
            client.pipeline(transaction=False).xack(_STREAM, _GROUP, *ids).xdel(_STREAM, *ids).execute()


async def awork() -> None:
    client: Any = redis.asyncio.Redis.from_url(URL)
    while True:
        for _, entries in await client.xreadgroup(_GROUP, str(os.getpid()), **_READ) or ():
            await asyncio.gather(*(ahandled(json.loads(fields[b"body"])) for _, fields in entries))
            ids = [entry_id for entry_id, _ in entries]
            await client.pipeline(transaction=False).xack(_STREAM, _GROUP, *ids).xdel(_STREAM, *ids).execute()


def send() -> None:
    client: Any = redis.Redis.from_url(URL)

    def many(payloads: Sequence[Payload]) -> None:
        for start in range(0, len(payloads), _BATCH):
            pipeline = client.pipeline(transaction=False)
            for each in payloads[start : start + _BATCH]:
                pipeline.xadd(_STREAM, {"body": json.dumps(each)})
            pipeline.execute()

    send_on_command(many, lambda payload: client.xadd(_STREAM, {"body": json.dumps(payload)}))


if __name__ == "__main__":
    _prepare()
    if sys.argv[1] == "send":
        send()
    elif SCENARIO == "io":
        asyncio.run(awork())
    else:
        if SCENARIO == "cpu":
            os.fork()
        work()
