# SPDX-License-Identifier: Apache-2.0
"""What calls cost, from AWS's price list."""

from __future__ import annotations

from collections.abc import Mapping

PRICES_OF = "2026-09"
"""The month of the list prices here: us-east-1, beyond the free million of requests a month. Other regions differ.

The source is https://aws.amazon.com/sqs/pricing/.
"""

STANDARD = 0.40
"""Dollars for a million requests to a standard queue."""
FIFO = 0.50
"""Dollars for a million requests to a FIFO queue."""
FAIR = 0.10
"""Dollars for a million requests, on top, where messages to a standard queue carry a group."""
BYTES_OF_A_REQUEST = 64 * 1024
"""A call with more payload counts as several requests."""


def cost_per_million(
    calls: Mapping[str, int], messages: int, *, fifo: bool = False, fair: bool = False, call_bytes: int = 0
) -> float:
    """Dollars for a million messages, if they take as many calls as those that were counted.

    Args:
        calls: Operation to count, as ``api_calls()`` of a backend tells.
        messages: How many messages took those calls.
        fifo: Whether the queue is a FIFO queue.
        fair: Whether messages to a standard queue carry groups.
        call_bytes: Payload of one send or receive, attributes included.

    Raises:
        ValueError: There was no message.
    """
    if messages < 1:
        msg = "a cost per message needs one message at least"
        raise ValueError(msg)
    requests_of_a_call = max(1, -(-call_bytes // BYTES_OF_A_REQUEST))
    requests = sum(
        count * (requests_of_a_call if operation in {"SendMessageBatch", "ReceiveMessage"} else 1)
        for operation, count in calls.items()
    )
    return requests / messages * (FIFO if fifo else STANDARD + (FAIR if fair else 0.0))
