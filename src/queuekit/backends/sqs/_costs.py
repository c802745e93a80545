# SPDX-License-Identifier: Apache-2.0
"""What calls cost, from AWS's price list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What AWS charges for requests. Regions differ, and prices change: give your own.

    Attributes:
        standard: Dollars for a million requests to a standard queue.
        fifo: Dollars for a million requests to a FIFO queue.
        fair: Dollars for a million requests, on top, where messages to a standard queue carry a group.
        request_bytes: A call with more payload counts as several requests.
        source: Where and when these were the prices.
    """

    standard: float
    fifo: float
    fair: float = 0.0
    request_bytes: int = 64 * 1024
    source: str = ""


LIST_PRICES: Final = Prices(
    standard=0.40,
    fifo=0.50,
    fair=0.10,
    source="https://aws.amazon.com/sqs/pricing/, us-east-1, September 2026, beyond the free million of a month",
)

_PREFIX = "api."


def cost_per_million(
    calls: Mapping[str, int],
    messages: int,
    *,
    fifo: bool = False,
    fair: bool = False,
    call_bytes: int = 0,
    prices: Prices = LIST_PRICES,
) -> float:
    """Dollars for a million messages, if they take as many calls as those that were counted.

    It is the price of the requests alone: nothing for data that leaves the region, for keys of KMS or for functions.

    Args:
        calls: Operation to count, or what ``counts()`` of a producer, a consumer or one queue of an app tells, of
            which those named ``api.…`` are the calls.
        messages: How many messages took those calls.
        fifo: Whether the queue is a FIFO queue.
        fair: Whether messages to a standard queue carry groups.
        call_bytes: Payload of one send or receive, attributes included.
        prices: What AWS charges; by default `LIST_PRICES`, whose source says when and where.

    Raises:
        ValueError: There was no message.
    """
    if messages < 1:
        msg = "a cost per message needs one message at least"
        raise ValueError(msg)
    counted = {name.removeprefix(_PREFIX): count for name, count in calls.items() if name.startswith(_PREFIX)}
    requests_of_a_call = max(1, -(-call_bytes // prices.request_bytes))
    requests = sum(
        count * (requests_of_a_call if operation in {"SendMessageBatch", "ReceiveMessage"} else 1)
        for operation, count in (counted or calls).items()
    )
    return requests / messages * (prices.fifo if fifo else prices.standard + (prices.fair if fair else 0.0))
