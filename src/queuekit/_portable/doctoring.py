# SPDX-License-Identifier: Apache-2.0
"""``doctor``: ask a queue's service for its settings, and say what can be lost by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from queuekit._engine.diagnosing import diagnose, unusable
from queuekit._portable.link import Link, open_link, seconds, whole_number
from queuekit._values.capability import Capabilities
from queuekit._values.clock import SystemClock
from queuekit._values.diagnosis import Diagnosis, Wanted
from queuekit._values.errors import QueueKitError, UnavailableError, UnsupportedError
from queuekit._values.finding import Finding, by_gravity
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener


def doctor(
    url: str | QueueURL,
    *,
    max_attempts: int | None = None,
    lease: timedelta | None = None,
    **options: Any,
) -> Diagnosis:
    """Look at a queue and at its service's settings, and say what can be lost by them.

    To be asked before a queue is relied upon, and after its server was changed. It sends, receives and changes
    nothing; where the first use makes a queue, asking makes it. ``?strict=true`` asks the same at the first
    call of a producer, consumer or worker, and refuses what is a loss.

    Args:
        url: The queue's URL.
        max_attempts: Of the handlers that are to work the queue, to be held against the service's own limit.
        lease: Of the handlers that are to work the queue, to be held against the service's bounds.
        **options: URL options, under the same names.

    Returns:
        Every finding, what can be lost in one sentence, and whether that is `Diagnosis.ok`.

    Raises:
        SetupError: The URL or an option is wrong.
        UsageError: The URL names no queue, or a number is out of range.
        UnavailableError: The service could not be reached. Try again later.
        AccessDeniedError: The credentials do not allow it. Correct them.
        ProviderError: The service could not be asked for another reason.

    Concurrency:
        Safe from any thread; blocks the calling one.

    Examples:
        ```python
        found = doctor("memory://orders")
        assert not found.ok
        print(found.can_lose)  # This can lose everything, when the process ends.
        ```
    """
    wanted = Wanted(
        max_attempts=None if max_attempts is None else whole_number("max_attempts", max_attempts, least=1),
        lease_s=None if lease is None else seconds("lease", lease),
    )
    opener = Opener(SystemClock())
    link = open_link(url, None, options, opener=opener)
    try:
        return examine(link, wanted)
    finally:
        link.close()
        opener.close()


async def adoctor(
    url: str | QueueURL,
    *,
    max_attempts: int | None = None,
    lease: timedelta | None = None,
    **options: Any,
) -> Diagnosis:
    """As `doctor`, on a thread of the loop's executor.

    Raises:
        QueueKitError: As `doctor` does.
    """
    ask = partial(doctor, url, max_attempts=max_attempts, lease=lease, **options)
    return await asyncio.get_running_loop().run_in_executor(None, ask)


def examine(link: Link, wanted: Wanted) -> Diagnosis:
    """Look at an open queue, and at the one where its longer delays wait.

    Raises:
        QueueKitError: The service could not be asked.
    """
    found = _examine_alone(link, wanted)
    if link.via is None:
        return found
    elsewhere = [*_examine_alone(link.via, Wanted()).findings, *_weaker(found.capabilities, link.via)]
    others = [
        replace(
            each, code=f"delay_via_{each.code}", text=f"in {link.via.shown}, where longer delays wait, {each.text}"
        )
        for each in elsewhere
        if each.severity != "note" or each.code == "weaker"
    ]
    return replace(found, findings=tuple(sorted([*found.findings, *others], key=by_gravity)))


def _weaker(can: Capabilities, via: Link) -> Iterable[Finding]:
    if can.durability == "replicated" and via.capabilities.durability == "disk":
        yield Finding(
            severity="note",
            code="weaker",
            text="messages are on the disk of one host, and in the queue itself on those of several",
        )


def _examine_alone(link: Link, wanted: Wanted) -> Diagnosis:
    try:
        can = link.guard.probe()
    except UnsupportedError as error:
        return unusable(error, link.guard, link.capabilities)
    except UnavailableError as error:
        return _ask_why(error, link, wanted)
    return diagnose(link.backend, link.guard, can, wanted)


def _ask_why(error: UnavailableError, link: Link, wanted: Wanted) -> Diagnosis:
    """A service that cannot work the queue now may still tell its settings.

    Raises:
        UnavailableError: It does not.
    """
    try:
        found = diagnose(link.backend, link.guard, link.capabilities, wanted)
    except QueueKitError:
        raise error from error.__cause__
    return unusable(error, link.guard, link.capabilities, found.findings)
