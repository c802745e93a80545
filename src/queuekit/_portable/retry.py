# SPDX-License-Identifier: Apache-2.0
"""What a handler can answer, and what a failed attempt means."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from queuekit._engine.metadata import Overrides
from queuekit._engine.waits import FullJitter, Wait, planned_wait_s, possible_retry_s, wish_s
from queuekit._portable.letters import Cause
from queuekit._portable.link import seconds
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import UsageError
from queuekit.backend import Action

if TYPE_CHECKING:
    from tenacity import RetryCallState

# Waits grow early or not at all.
_ASKED_FOR = 30


class Retry(BaseException):
    """Returned or raised by a handler: this attempt failed, try again.

    Derives from `BaseException`, so that a broad ``except Exception`` in the handler does not eat it. At the
    top level of a handler prefer ``return Retry(...)``. Beware of ``except BaseException`` and of
    ``except Exception: rollback(); raise`` patterns that never see it.

    Args:
        delay: No earlier than this long from now; None asks the handler's retry policy.

    Concurrency:
        Holds nothing but the delay; one instance may be used any number of times, from any thread.
    """

    delay_s: float | None = None  # also of a subclass that does not call this one's __init__

    def __init__(self, *, delay: timedelta | None = None) -> None:
        super().__init__()
        self.delay_s = None if delay is None else seconds("delay", delay)

    def __reduce__(self) -> tuple[type[Retry], tuple[()], dict[str, float | None]]:
        return (type(self), (), {"delay_s": self.delay_s})

    def __repr__(self) -> str:
        return "Retry()" if self.delay_s is None else f"Retry(delay=timedelta(seconds={self.delay_s:g}))"


class DeadLetter(BaseException):
    """Returned or raised by a handler: never try this message again, keep it for study.

    Derives from `BaseException` for the same reason as `Retry`.

    Args:
        reason: Why, for whoever studies it.

    Concurrency:
        As `Retry`.
    """

    reason: str = "the handler said so"

    def __init__(self, reason: str = reason) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class NotNow(BaseException):
    """Raised by what wraps a handler: it did not run, and the message is to come again; no attempt is spent.

    Args:
        delay_s: No earlier than this many seconds from now.
    """

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is followed by another, and how long after.

    Attributes:
        max_attempts: Most attempts, the first included; then the message is dead.
        wait: Any tenacity wait strategy. By default exponential with full jitter, 1 s to 10 min.
        retry_on: Exceptions that another attempt may mend; any other is dead at once.
        dead_letter_on: Exceptions that no attempt can mend; they win over ``retry_on``.

    Raises:
        UsageError: ``max_attempts`` is no whole number of at least 1, or an entry is no exception class.
    """

    max_attempts: int = 5
    wait: Wait | None = None
    retry_on: tuple[type[BaseException], ...] | type[BaseException] = BaseException
    dead_letter_on: tuple[type[BaseException], ...] | type[BaseException] = ()

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            msg = f"max_attempts must be a whole number of at least 1 and is {self.max_attempts!r}"
            raise UsageError(msg)
        if self.wait is not None and not callable(self.wait):
            msg = f"wait must be a tenacity wait strategy and is {type(self.wait).__name__}"
            raise UsageError(msg)
        for name in ("retry_on", "dead_letter_on"):
            kinds = getattr(self, name)
            for kind in kinds if isinstance(kinds, tuple) else (kinds,):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    msg = f"{name} takes exception classes and has {kind!r}"
                    raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a delivery is to be settled.

    Attributes:
        action: ACK, RETRY, RELEASE or DEAD.
        delay_s: For RETRY.
        cause: For DEAD, and for the log of a RETRY.
        demanded: Whether the handler itself asked for this delay.
        held: Whether the attempts are used up, and the message stays so that its ordering key waits.
    """

    action: Action
    delay_s: float = 0.0
    cause: Cause | None = None
    demanded: bool = False
    held: bool = False


ACK = Verdict(Action.ACK)
RELEASE = Verdict(Action.RELEASE)


class Judge:
    """Turns what a handler did into a verdict. Pure but for the chance in waits.

    Args:
        policy: The handler's retry policy.
        can: What the queue can do.
        clock: For chance.
        holds: Whether a message with an ordering key stays at the head of its key when its attempts are used
            up.
        keyed: Whether it is for messages with an ordering key, where those wait for less long than others.

    Attributes:
        most: The largest attempt that is not dead on receipt.
        varies: Whether a message's ordering key makes a difference.
    """

    def __init__(
        self, policy: RetryPolicy, can: Capabilities, clock: Clock, *, holds: bool = False, keyed: bool = False
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._holds = holds
        self._default = FullJitter(clock.random)
        self._wait: Wait = policy.wait if policy.wait is not None else self._default
        self._can = can
        self._longest_s = can.max_retry_delay_s if keyed else can.longest_retry_s
        self._by_key = not keyed and can.via_delay_s > 0 and can.ordering != "none"
        self.varies: bool = holds or self._by_key
        self.most: float = math.inf if holds else policy.max_attempts + attempt_slack(can)

    def of(self, overrides: Overrides | None, ordering_key: str | None) -> Judge:
        """The judge of one message: this one, unless the message has retry options of its own, or a key."""
        keyed = ordering_key is not None
        if overrides is None and (not self._by_key if keyed else not self._holds):
            return self
        policy = self._policy
        if overrides is not None and overrides.max_attempts is not None:
            policy = replace(policy, max_attempts=overrides.max_attempts)
        if overrides is not None and overrides.retry_delay_s is not None:
            policy = replace(policy, wait=_Fixed(overrides.retry_delay_s))
        orders = keyed and self._can.ordering != "none"
        return Judge(policy, self._can, self._clock, holds=self._holds and keyed, keyed=orders)

    @property
    def orders(self) -> bool:
        """Whether the messages of an ordering key follow each other; elsewhere a key only says whose they are."""
        return self._can.ordering != "none"

    def on_receipt(self, attempt: int | None) -> Verdict | None:
        """Dead before it runs when it ran too often already, as one that kills its worker does."""
        if attempt is None or attempt <= self.most:
            return None
        return Verdict(Action.DEAD, cause=Cause(f"attempts used up: delivered {attempt} times"))

    def on_return(self, value: object, attempt: int | None) -> Verdict:
        """The verdict on a handler that returned."""
        failure = failure_in(value)
        return ACK if failure is None else self.on_error(failure, attempt)

    def on_error(self, error: BaseException, attempt: int | None) -> Verdict:
        """The verdict on a handler that raised."""
        error = unwrapped(error)
        if isinstance(error, DeadLetter):
            return Verdict(Action.DEAD, cause=Cause(error.reason, error.__cause__))
        if isinstance(error, Retry):
            return self._again(error, attempt, error.delay_s)
        if isinstance(error, NotNow):
            # Nothing was tried, so there is no copy: what waits, waits in place, where anything does.
            can = self._can
            longest_s = can.longest_retry_s if can.retries_by_copy else can.max_retry_delay_s
            return Verdict(Action.RELEASE, min(possible_retry_s(error.delay_s, can), longest_s))
        policy = self._policy
        if isinstance(error, policy.dead_letter_on) or not isinstance(error, policy.retry_on):
            return Verdict(Action.DEAD, cause=Cause(f"not to be retried: {type(error).__qualname__}", error))
        return self._again(error, attempt, None)

    def _again(self, error: BaseException, attempt: int | None, demanded_s: float | None) -> Verdict:
        cause = Cause(f"attempts used up: {attempt} of {self._policy.max_attempts}", error)
        if attempt is not None and attempt >= self._policy.max_attempts:
            return self.used_up(error, attempt, cause)
        if demanded_s is not None:
            return Verdict(
                Action.RETRY,
                possible_retry_s(demanded_s, self._can),
                Cause("the handler asked", error),
                demanded=True,
            )
        wish_s = planned_wait_s(self._wait, attempt or 1, error, fallback=self._default)
        return Verdict(Action.RETRY, self._nearest_s(wish_s), Cause("failed", error))

    def used_up(self, error: BaseException, attempt: int, cause: Cause) -> Verdict:
        """The verdict on a message that may not fail again: dead, or held so that its key waits."""
        if not self._holds:
            return Verdict(Action.DEAD, cause=cause)
        if self._wait is self._default:
            wish_s = self._default.most_s
        else:
            wish_s = planned_wait_s(self._wait, attempt, error, fallback=self._default)
        return Verdict(Action.RETRY, self._nearest_s(wish_s), cause, held=True)

    def _nearest_s(self, wish_s: float) -> float:
        """A policy's wait is a wish: the nearest that the service can do will do."""
        return min(possible_retry_s(min(wish_s, self._longest_s), self._can), self._longest_s)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A wait of one length."""

    seconds: float

    def __call__(self, retry_state: RetryCallState) -> float:  # noqa: ARG002 - as every wait strategy
        return self.seconds


def failure_in(value: object) -> BaseException | None:
    """What a handler's returned value stands for, where that is no success."""
    if isinstance(value, type) and issubclass(value, (Retry, DeadLetter)):
        try:
            value = value()
        except Exception as error:  # noqa: BLE001 - the handler boundary: a subclass is the user's code
            return error
    if isinstance(value, (Retry, DeadLetter)):
        return value
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        # Nothing that has not run is ever acked, and nobody would run this.
        return UsageError("the handler returned a generator, which nobody runs; loop inside the handler")
    return None


def attempt_slack(can: Capabilities) -> int:
    """How many deliveries beyond the attempts are taken for ones that came to nothing.

    Where releases are counted, deploys spend attempts too; ten deploys must not kill a message.
    """
    return 10 if can.release_counts else 0


def unwrapped(error: BaseException) -> BaseException:
    """What a group of exceptions means: any DeadLetter wins, then the Retry with the longest delay."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, DeadLetter):
            return leaf
    retries = [leaf for leaf in leaves if isinstance(leaf, Retry)]
    if retries:
        return max(retries, key=lambda each: each.delay_s or 0.0)
    return error


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def longest_wait_s(policy: RetryPolicy, clock: Clock) -> float:
    """The longest wait between two attempts that a policy asks for, as far as asking it tells."""
    attempts = range(1, min(policy.max_attempts, _ASKED_FOR))
    if policy.wait is None:
        default = FullJitter(clock.random)
        return max((default.bound_s(attempt) for attempt in attempts), default=0.0)
    return max((wish_s(policy.wait, attempt) for attempt in attempts), default=0.0)
