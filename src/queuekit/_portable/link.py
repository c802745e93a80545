# SPDX-License-Identifier: Apache-2.0
"""What a producer, a consumer and a worker open alike: one queue, with its backend and its guard."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from queuekit._engine.detour import DetouringGuard
from queuekit._engine.diagnosing import diagnose
from queuekit._engine.guard import Guard
from queuekit._engine.journal import Journal
from queuekit._portable.detours import End, detour_of, longest_wait_s, via_url
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.diagnosis import Diagnosis, Wanted, refusal_of
from queuekit._values.errors import QueueKitError, UnavailableError, UnsupportedError, UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.defaults import default_url
from queuekit._wiring.engine_options import engine_options
from queuekit._wiring.opening import dead_letter_url, fill_queue, has_queue
from queuekit.backend import Backend, Metered
from queuekit.stores import IdempotencyStore

logger = logging.getLogger("queuekit")

_ASK_AGAIN_S = 60.0

Require = Iterable[str] | Mapping[str, Any]


class BackendOpener(Protocol):
    """Opens backends that share a clock and clients; see `queuekit._wiring.opening.Opener`."""

    clock: Clock

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        """Open the queue that a whole URL names; no I/O."""
        ...

    def open_store(self, url: QueueURL) -> IdempotencyStore:
        """Open the idempotency store that a URL names; no I/O."""
        ...

    def close(self) -> None:
        """Close what the backends shared."""
        ...


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check()` found.

    Attributes:
        queue: The queue's redacted URL.
        capabilities: What the queue can do, as its service says; static where it did not answer.
        problems: One sentence per thing that is wrong; empty when all is well.
        error: Why the service could not be asked, or what ``strict=true`` refuses.
    """

    queue: str
    capabilities: Capabilities
    problems: tuple[str, ...] = ()
    error: QueueKitError | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def raise_for_problems(self) -> None:
        """Raise what was found.

        Raises:
            QueueKitError: The service's own error, where there was one.
            UnsafeSettingsError: ``strict=true``, and the queue's settings can lose messages.
            UnsupportedError: Something else is wrong; the message lists all.
        """
        if self.error is not None:
            error = self.error
            raise error
        if self.problems:
            raise UnsupportedError("; ".join(self.problems), queue=self.queue, operation="check")


@dataclass(slots=True)
class Link:
    """One open queue.

    Attributes:
        url: The queue's whole URL.
        shown: The same, redacted.
        backend: The open backend.
        guard: The way to it.
        journal: Where to count and log.
        clock: Time and chance.
        require: The features that the user demanded.
        foreign: Whether consumers other than queuekit's take part, so that nothing is bridged by copies.
        strict: Whether settings that can lose messages are refused.
        by_answer: Whether its messages are pushed, and settled by nothing but the answer.
        answer_s: For how long that answer is awaited; None where only the service knows.
        wanted: How the queue is going to be worked, as far as it is known.
        via: The queue through which longer delays go; None where none is named.
        unvetted: Whether something is demanded of the queue that its service was not asked for yet.
    """

    url: QueueURL
    shown: str
    backend: Backend
    guard: Guard
    journal: Journal
    clock: Clock
    require: Require = ()
    probed: Capabilities | None = None
    foreign: bool = False
    strict: bool = False
    by_answer: bool = False
    answer_s: float | None = None
    wanted: Wanted = field(default_factory=Wanted)
    via: Link | None = None
    unvetted: bool = field(init=False)
    _warned: bool = field(default=False)
    _ask_at: float = field(default=-math.inf)

    def __post_init__(self) -> None:
        self.unvetted = bool(self.require) or self.strict

    @property
    def capabilities(self) -> Capabilities:
        """What the probe found, or what the URL tells as long as there was none."""
        found = self.probed or self.backend.capabilities
        if self.foreign or self.via:
            via_s = 0.0 if self.via is None else longest_wait_s(self.via.backend, self.via.capabilities)
            found = replace(found, foreign=self.foreign, via_delay_s=via_s)
        return found.by_answer(self.answer_s) if self.by_answer else found

    def longest_delay_s(self) -> float:
        """The longest delay that the queue itself keeps, as far as it is known."""
        return (self.probed or self.backend.capabilities).max_delay_s

    def ensure(self) -> None:
        """Probe once if something is demanded, and hold it against what was found; a refusal is not forgotten.

        Raises:
            UnsupportedError: A required feature is missing; the message lists all that are.
            UnsafeSettingsError: ``strict=true``, and the queue's settings can lose messages.
            QueueKitError: The service could not be asked.
        """
        if self.unvetted:
            if self.via is not None:
                self.via.ensure()
            self.probed = self.probed or self._probe()
            _check_required(self.capabilities, self.require, self.shown)
            if self.strict:
                self._diagnose().raise_for_losses()
            self.unvetted = False

    @property
    def may_learn(self) -> bool:
        """Whether the queue has limits of its own that nobody has asked for."""
        return self.probed is None and self.backend.capabilities.queues == "declared"

    def learn(self, use: Callable[[Capabilities], None]) -> None:
        """Ask for the limits of a queue that has its own, until it has answered; ``use`` is told what they are.

        Why it could not be asked is not told here: the call that follows meets the same, and answers for it.
        """
        if not self.may_learn or (now := self.clock.monotonic()) < self._ask_at:
            return
        self._ask_at = now + _ASK_AGAIN_S
        with suppress(QueueKitError):
            self.probed = self.guard.probe()
            use(self.capabilities)

    def check(self) -> CheckReport:
        """Ask the service everything at once."""
        try:
            self.probed = self._probe()
            diagnosis = self._diagnose() if self.strict else None
        except QueueKitError as error:
            return CheckReport(self.shown, self.capabilities, (str(error),), error)
        missing = self.capabilities.missing(self.require)
        problems = tuple(f"the queue lacks {each}" for each in missing)
        refusal = None if diagnosis is None else refusal_of(diagnosis)
        unsafe = () if refusal is None else tuple(each.text for each in refusal.findings)
        via = None if self.via is None else self.via.check()
        beyond = () if via is None else tuple(f"delay_via={via.queue}: {each}" for each in via.problems)
        first = refusal or (None if via is None else via.error)
        return CheckReport(self.shown, self.capabilities, (*problems, *unsafe, *beyond), first)

    def counts(self) -> dict[str, int]:
        """How often each logged thing happened, and as ``api.NAME`` how often each operation was asked for."""
        asked = (self,) if self.via is None else (self, self.via)
        calls = Counter[str]()
        for each in asked:
            if isinstance(each.backend, Metered):
                calls.update(each.backend.api_calls())
        return self.journal.counts() | {f"api.{name}": count for name, count in calls.items()}

    def close(self) -> None:
        """Close the queue, and the one for longer delays."""
        self.backend.close()
        if self.via is not None:
            self.via.close()

    def _probe(self) -> Capabilities:
        try:
            return self.guard.probe()
        except UnavailableError:
            # What cannot be worked now may be so by its settings, as a replica is; waiting does not change those.
            if self.strict:
                with suppress(UnavailableError):
                    self._diagnose().raise_for_losses()
            raise

    def _diagnose(self) -> Diagnosis:
        return diagnose(self.backend, self.guard, self.capabilities, self.wanted)

    def warn_in_loop(self, blocking: str, twin: str) -> None:
        """Log once that a blocking call was made inside a running event loop."""
        if not self._warned and in_loop():
            self._warned = True
            logger.warning(
                "%s blocks the running event loop; use await %s instead",
                blocking,
                twin,
                extra={"action": "setup.blocking_in_loop"},
            )


def in_loop() -> bool:
    """Whether this thread runs an event loop now."""
    return asyncio._get_running_loop() is not None  # noqa: SLF001 - documented, and a third of the cost of raising


def open_link(
    url: str | QueueURL | None,
    queue: str | None,
    options: Mapping[str, Any],
    *,
    opener: BackendOpener,
    require: Require = (),
) -> Link:
    """Open one queue; no I/O.

    Args:
        url: The queue's URL, or None for the default one.
        queue: The queue's name, where the URL leaves it out.
        options: URL options given as keywords.
        opener: Opens backends.
        require: Features that the queue must have.

    Raises:
        SetupError: The URL, its options or its backend are wrong, or a required feature is missing.
    """
    whole = resolve_url(url, queue)
    backend = opener.open(whole, options)
    shown = str(whole)
    require = require if isinstance(require, Mapping) else tuple(require)
    ours = engine_options(whole, options)
    link = Link(
        whole,
        shown,
        backend,
        Guard(backend, shown),
        Journal(shown),
        opener.clock,
        require,
        foreign=ours.foreign,
        strict=ours.strict,
    )
    if ours.delay_via:
        _lead_through(link, open_link(via_url(ours.delay_via, whole, options), None, {}, opener=opener), options)
    _check_required(link.capabilities, require, shown)
    if link.capabilities.plaintext:
        link.journal.note(
            "connection.plaintext", "what is sent to another host is not encrypted; use the form with TLS"
        )
    return link


def _lead_through(link: Link, via: Link, options: Mapping[str, Any]) -> None:
    """Have longer delays go through another queue.

    Raises:
        UnsupportedError: It cannot keep them.
    """
    detour = detour_of(_end(link, options), _end(via, {}), link.clock)
    link.guard = DetouringGuard(link.backend, link.shown, detour, link.longest_delay_s)
    link.via = via
    link.unvetted = link.unvetted or via.unvetted


def _end(link: Link, options: Mapping[str, Any]) -> End:
    return End(link.url, options, link.shown, link.backend, link.guard, lambda: link.capabilities)


def resolve_url(url: str | QueueURL | None, queue: str | None) -> QueueURL:
    """The whole URL of a queue from what a user gave.

    Raises:
        UsageError: There is no queue in it.
        SetupError: The URL is wrong.
    """
    whole = default_url(os.environ) if url is None else url if isinstance(url, QueueURL) else QueueURL.parse(url)
    if queue is not None:
        return fill_queue(whole, queue)
    if not has_queue(whole):
        msg = f"{whole} names no queue; put it into the URL or pass queue="
        raise UsageError(msg, operation="open")
    return whole


def own_dead_letters(link: Link) -> QueueURL:
    """The URL of the queue's own dead-letter queue."""
    return dead_letter_url(link.url)


def seconds(name: str, length: timedelta, *, least: float = 0.0) -> float:
    """A user's length in seconds.

    Raises:
        UsageError: It is no timedelta, or shorter than ``least``.
    """
    if not isinstance(length, timedelta):
        msg = f"{name} must be a timedelta and is {type(length).__name__}; write timedelta(seconds=…)"
        raise UsageError(msg)
    value = length.total_seconds()
    if value < least:
        msg = f"{name} must be at least {least:g} s and is {value:g} s"
        raise UsageError(msg)
    return value


def whole_number(name: str, value: int, *, least: int) -> int:
    """A user's count.

    Raises:
        UsageError: It is no whole number, or less than ``least``.
    """
    if type(value) is not int or value < least:
        msg = f"{name} must be a whole number of at least {least} and is {value!r}"
        raise UsageError(msg)
    return value


def timeout_seconds(timeout: timedelta | float | None) -> float | None:
    """A user's timeout in seconds: a timedelta, a number of seconds, or None for no limit.

    Raises:
        UsageError: It is negative or something else.
    """
    if timeout is None:
        return None
    value = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        msg = f"timeout must be a timedelta or a number of seconds, not negative, and is {timeout!r}"
        raise UsageError(msg)
    return float(value)


def _check_required(can: Capabilities, require: Require, shown: str) -> None:
    try:
        missing = can.missing(require)
    except ValueError as error:
        raise UsageError(str(error), operation="open") from None
    if missing:
        msg = f"{shown} lacks what is required: {', '.join(missing)}; use another queue or require less"
        raise UnsupportedError(msg, queue=shown, operation="open")
