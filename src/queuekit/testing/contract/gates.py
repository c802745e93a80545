# SPDX-License-Identifier: Apache-2.0
"""Cases that need a capability; where it is absent, the negative twin runs in the case's place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from queuekit._values.capability import FEATURES, Capabilities, Support
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.twins import TWINS

Case = TypeVar("Case", bound=Callable[..., None])

GATES: Mapping[str, Callable[[Capabilities], Any]] = {
    **FEATURES,
    "absolute_extend": lambda c: c.extend == "absolute",
    "declared": lambda c: c.queues == "declared",
    "delay_refused_with_ordering": lambda c: c.ordering != "none" and not c.delay_with_ordering,
    "disk": lambda c: c.durability == "disk",
    "native_dead_letters": lambda c: c.dead_letters is Support.NATIVE,
    "per_key": lambda c: c.ordering == "per_key",
}
"""The names that `requires` knows: every feature of ``require=``, and facts that only the suite asks for."""


def requires(*gates: str) -> Callable[[Case], Case]:
    """Run the case only where every gate is open; else the twin of the first closed one.

    Raises:
        KeyError: A name that is no gate, or that has no twin.
    """
    for name in gates:
        if name not in GATES or name not in TWINS:
            msg = f"the gate {name!r} is unknown or has no twin"
            raise KeyError(msg)

    def gate(case: Case) -> Case:
        @functools.wraps(case)
        def gated(self: Any, harness: Harness, **fixtures: Any) -> None:
            closed = closed_gate(gates, harness.capabilities)
            if closed is None:
                case(self, harness, **fixtures)
            else:
                TWINS[closed](harness)

        gated.gates = gates  # type: ignore[attr-defined]
        return gated  # type: ignore[return-value]

    return gate


def closed_gate(gates: tuple[str, ...], capabilities: Capabilities) -> str | None:
    """The first gate that these capabilities leave closed."""
    return next((name for name in gates if not GATES[name](capabilities)), None)
