# SPDX-License-Identifier: Apache-2.0
"""What a look at a queue's set-up found, and what can be lost by it."""

from __future__ import annotations

from dataclasses import dataclass

from queuekit._values.capability import Capabilities
from queuekit._values.errors import UnsafeSettingsError
from queuekit._values.finding import Finding

_KEPT = {
    "process": "everything, when the process that holds the queue ends",
    "disk": "nothing that was accepted, as long as the disk that it is on lasts",
    "replicated": "nothing that was accepted, as far as the service keeps its promise",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a queue is going to be worked, as far as that is known.

    Attributes:
        max_attempts: How often a message is tried before it is a dead letter; None where nobody said.
        lease_s: The lease, in seconds; None where nobody said.
    """

    max_attempts: int | None = None
    lease_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is good and bad about a queue's set-up.

    Attributes:
        url: The queue's redacted URL.
        capabilities: What the queue can do, as its service says.
        findings: The gravest first.
    """

    url: str
    capabilities: Capabilities
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no finding is a loss."""
        return not self.losses

    @property
    def losses(self) -> tuple[Finding, ...]:
        """The findings that are losses; what ``?strict=true`` refuses."""
        return tuple(each for each in self.findings if each.severity == "loss")

    @property
    def can_lose(self) -> str:
        """What can be lost, in one sentence."""
        parts = dict.fromkeys(each.loses for each in self.findings if each.loses)
        return f"This can lose {'; '.join(parts) or _KEPT[self.capabilities.durability]}."

    def raise_for_losses(self) -> None:
        """Raise what ``?strict=true`` raises.

        Raises:
            UnsafeSettingsError: A finding is a loss; the message has each of them with its remedy.
        """
        refusal = refusal_of(self)
        if refusal is not None:
            raise refusal


def refusal_of(diagnosis: Diagnosis) -> UnsafeSettingsError | None:
    """The error that ``?strict=true`` raises for what was found; None where no finding is a loss."""
    if diagnosis.ok:
        return None
    told = "; ".join(f"{each.text} ({each.remedy})" if each.remedy else each.text for each in diagnosis.losses)
    msg = f"{diagnosis.url} can lose messages, and strict=true refuses that: {told}"
    return UnsafeSettingsError(msg, findings=diagnosis.losses, queue=diagnosis.url, operation="check")
