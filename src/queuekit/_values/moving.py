# SPDX-License-Identifier: Apache-2.0
"""A task of a service that moves dead letters back by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MoveStatus = Literal["running", "completed", "cancelling", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One task of the service itself that moves dead letters back, as the service tells of it.

    Attributes:
        status: What became of it; ``unknown`` where the service has a word that queuekit does not know.
        moved: About how many messages it has moved; None where it does not tell.
        total: About how many there were to move; None where it does not tell.
        per_second: The most in a second; None where it chooses by itself.
        started_at: When it began, in seconds since the epoch, UTC; None where it does not tell.
        reason: Why it failed, in the service's word; empty where it did not.
    """

    status: MoveStatus | Literal["unknown"]
    moved: int | None = None
    total: int | None = None
    per_second: int | None = None
    started_at: float | None = None
    reason: str = ""
