# SPDX-License-Identifier: Apache-2.0
"""The cases that the suite promises, by group: what is here and not tested is a hole, and a test finds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

GROUPS: Mapping[str, tuple[str, int]] = {
    "PRO": ("Produce", 12),
    "CON": ("Consume", 14),
    "ACK": ("Settle: ack, retry, release, dead", 17),
    "LEA": ("Lease, redelivery, stale holders", 19),
    "DEL": ("Delay and schedule", 17),
    "ORD": ("Ordering", 13),
    "DUP": ("Deduplication and idempotency", 11),
    "DLQ": ("Dead letters", 12),
    "RED": ("Redrive", 6),
    "BPF": ("Batch partial failure", 20),
    "CCY": ("Concurrency, batching, rate", 13),
    "SHU": ("Lifecycle and shutdown", 14),
    "FLT": ("Faults and reconnecting", 17),
    "ENC": ("Encoding, attributes, size", 21),
    "URL": ("URL and configuration", 15),
    "ADM": ("Administration", 11),
    "MET": ("Counters, tracing, logs", 8),
    "PSH": ("Push", 9),
    "EXP": ("Expiry", 3),
    "MOD": ("Models and histories", 9),
}
"""Prefix of the IDs to the group's title and its number of cases, which are numbered from 01."""

_CASE_NAME = re.compile(r"test_([A-Z]{3})_(\d\d)_")


def all_ids() -> Iterator[str]:
    """Every ID, such as ``LEA-04``, in order."""
    for group, (_title, count) in GROUPS.items():
        for number in range(1, count + 1):
            yield f"{group}-{number:02}"


def case_id(test_name: str) -> str | None:
    """The ID that a test's name starts with; None for a test that is no case."""
    match = _CASE_NAME.match(test_name)
    return f"{match[1]}-{match[2]}" if match else None
