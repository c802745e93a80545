# SPDX-License-Identifier: Apache-2.0
"""One thing that a look at a queue's set-up found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["loss", "warning", "note"]
"""``loss``: messages that were accepted can be lost, or the queue cannot be used. ``warning``: something will not be
as expected. ``note``: good to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about a queue's set-up.

    Attributes:
        severity: ``loss``: messages that were accepted can be lost, or the queue cannot be used. ``warning``:
            something will not be as expected. ``note``: good to know.
        code: A name for programs, in lower case with underscores, that stays.
        text: The fact, as a sentence without a full stop. Never a credential.
        remedy: What to do about it, as a sentence without a full stop; empty where nothing can be done.
        loses: What can be lost and when, as a part of a sentence: ``every message, when the server ends``. Empty
            where nothing can.
    """

    severity: Severity
    code: str
    text: str
    remedy: str = ""
    loses: str = ""


def by_gravity(finding: Finding) -> int:
    """For sorting: the gravest first."""
    return ("loss", "warning", "note").index(finding.severity)
