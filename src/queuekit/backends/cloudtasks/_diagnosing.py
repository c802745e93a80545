# SPDX-License-Identifier: Apache-2.0
"""What of a queue's settings can lose messages, or will surprise."""

from __future__ import annotations

from collections.abc import Iterator

from queuekit.backend import Finding, Wanted
from queuekit.backends.cloudtasks._managing import Settings

_DEFAULT_ATTEMPTS = 5
_SLACK = 10
"""Calls that the service counts and no handler saw."""

NOT_ASKED = Finding(
    severity="note",
    code="settings_denied",
    text="the queue's settings could not be asked for, and after how many calls it gives a message up",
    remedy="allow cloudtasks.queues.get on the queue",
)
_RETENTION = Finding(
    severity="note",
    code="retention",
    text="the service drops a message 31 d after it was sent, handled or not",
    remedy="",
    loses="a message that nobody has handled 31 d after it was sent",
)
_PAUSED = Finding(
    severity="note",
    code="paused",
    text="the queue is paused: it takes messages, and hands out none",
    remedy="resume it",
)


def diagnose(settings: Settings, wanted: Wanted) -> list[Finding]:
    """Hold a queue's settings against how it is going to be worked."""
    return [_RETENTION, *([_PAUSED] if settings.paused else []), *_limit(settings, wanted)]


def _limit(settings: Settings, wanted: Wanted) -> Iterator[Finding]:
    attempts = wanted.max_attempts or _DEFAULT_ATTEMPTS
    most = settings.max_dispatches
    if not most or most > attempts + _SLACK:
        return
    early = most <= attempts
    yield Finding(
        severity="loss" if early else "warning",
        code="few_dispatches",
        text=f"the service drops a message after {most} calls, without a trace, "
        + (f"before its {attempts} attempts are used up" if early else "and counts those that reached no handler"),
        remedy=f"set max_attempts of the queue to -1, or above {attempts + _SLACK}",
        loses=f"a message that has failed {most} times",
    )
