# SPDX-License-Identifier: Apache-2.0
"""What a queue over several lanes can do: what every one of them can, and no order across them. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from queuekit._values.capability import Capabilities, Support

_MOST = frozenset({"min_lease_s", "min_retry_delay_s", "delay_resolution_s", "retry_delay_resolution_s"})
_TRUE_IF_ANY = frozenset({"release_counts", "foreign"})
_WORST_LAST: Mapping[str, Sequence[Any]] = {
    "queues": ("implicit", "declared"),
    "copies": ("private", "fanout"),
    "durability": ("replicated", "disk", "process"),
    "lease": ("timed", "connection"),
    "extend": ("absolute", "quantum", "none"),
    "fencing": ("strict", "lenient", "none"),
    "attempts": ("exact", "approximate", "none"),
    "depth": ("exact", "approximate", "none"),
    "dead_letters": tuple(Support),
    "redrive": tuple(Support),
    "expiry": tuple(Support),
}


def merged(lanes: Sequence[Capabilities]) -> Capabilities:
    """The capabilities of a queue whose messages may be in any of these."""
    found = {
        each.name: _together(each.name, [getattr(lane, each.name) for lane in lanes])
        for each in dataclasses.fields(Capabilities)
    }
    found |= {
        "atomic_send": False,
        "one_key_per_send": False,
        "ordering": "none",
        "delay_with_ordering": False,
        "priority_levels": len(lanes),
        "max_polls": 1,
        "wait_at_least_s": sum(lane.wait_at_least_s for lane in lanes),
        "server": lanes[0].server,
        "assumed": frozenset().union(*(lane.assumed for lane in lanes)),
    }
    return Capabilities(**found)


def _together(name: str, values: Sequence[Any]) -> Any:
    if name in _WORST_LAST:
        return max(values, key=_WORST_LAST[name].index)
    if isinstance(values[0], bool):
        return any(values) if name in _TRUE_IF_ANY else all(values)
    known = [value for value in values if value is not None]
    if not known or not isinstance(known[0], (int, float)):
        return values[0]
    return max(known) if name in _MOST else min(known)
