# SPDX-License-Identifier: Apache-2.0
"""queuekit on memory:// against a bare loop over a deque and a dict, with the same pydantic work in both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from pydantic import TypeAdapter

from _bench import Contest, Part, arguments, begin, compare
from _payloads import EMAIL, PUSH, Email, Push, emails, pushes
from queuekit import Consumer, Producer
from queuekit.testing import reset_memory

_BATCH = 1000

Payloads = Callable[[int], list[Any]]


def bare(adapter: TypeAdapter[Any], make: Payloads) -> Part:
    """Append, pop, remember, validate and forget: the least that keeps what is in flight."""

    def run(count: int) -> float:
        payloads = make(count)
        dump, validate = adapter.dump_json, adapter.validate_json
        began = begin()
        queue: deque[tuple[int, bytes]] = deque()
        for index, payload in enumerate(payloads):
            queue.append((index, dump(payload, by_alias=True, round_trip=True, warnings="error")))
        in_flight = {}
        while queue:
            index, body = queue.popleft()
            in_flight[index] = body
            validate(body)
            del in_flight[index]
        return perf_counter() - began

    return run


def through_queuekit(payload: Any, make: Payloads) -> Part:
    """send_many in batches, then a Consumer that reads and acks each, until the last is settled."""

    def run(count: int) -> float:
        payloads = make(count)
        with (
            Producer("memory://bench", payload=payload) as producer,
            Consumer("memory://bench", payload=payload) as consumer,
        ):
            began = begin()
            for start in range(0, count, _BATCH):
                producer.send_many(payloads[start : start + _BATCH])
            left = count
            for delivery in consumer:
                _ = delivery.payload
                delivery.ack()
                left -= 1
                if not left:
                    delivery.settled()
                    break
            took = perf_counter() - began
        reset_memory()
        return took

    return run


def main() -> None:
    options = arguments("queuekit on memory:// against a bare loop", messages=20_000).parse_args()
    compare(
        [
            Contest("memory, small payload", bare(EMAIL, emails), through_queuekit(Email, emails), target=0.4),
            Contest("memory, 10 KB payload", bare(PUSH, pushes), through_queuekit(Push, pushes), share=0.05),
        ],
        options,
    )


if __name__ == "__main__":
    main()
