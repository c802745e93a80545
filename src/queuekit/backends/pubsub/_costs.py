# SPDX-License-Identifier: Apache-2.0
"""What messages cost, from Google's price list: by bytes, and not by calls."""

from __future__ import annotations

from collections.abc import Mapping

PRICES_OF = "2026-09"
"""The month of the list prices here, beyond the free 10 GiB a month.

The source is https://cloud.google.com/pubsub/pricing.
"""

PER_TIB = 40.0
"""Dollars for a tebibyte that is published, and for each that a subscription delivers."""
LEAST_BYTES = 1000
"""Of each request: less counts as much."""

_TIB = 1 << 40
_WITH_MESSAGES = ("Publish", "Pull")


def cost_per_million(calls: Mapping[str, int], messages: int, *, message_bytes: int, deliveries: int = 1) -> float:
    """Dollars for a million messages, if they take as many calls as those that were counted.

    Args:
        calls: Operation to count, as ``api_calls()`` of a backend tells.
        messages: How many messages took those calls.
        message_bytes: Of one message, attributes included.
        deliveries: How often each is delivered, over all subscriptions.

    Raises:
        ValueError: There was no message.
    """
    if messages < 1:
        msg = "a cost per message needs one message at least"
        raise ValueError(msg)
    carried = {"Publish": messages * message_bytes, "Pull": messages * message_bytes * deliveries}
    # A request is charged for its messages, or for the least that one is charged for.
    charged = sum(
        max(carried.get(operation, 0), count * LEAST_BYTES)
        for operation, count in calls.items()
        if operation in _WITH_MESSAGES
    )
    return charged / messages * 1_000_000 / _TIB * PER_TIB
