# SPDX-License-Identifier: Apache-2.0
"""Whether a worker can work a queue: that attempts are counted, and that queuekit has the last word on them."""

from __future__ import annotations

from collections.abc import Sequence

from queuekit._portable.handler import AnyHandler, BatchHandler
from queuekit._portable.intake import Intake
from queuekit._portable.link import Link
from queuekit._portable.retry import attempt_slack, longest_wait_s
from queuekit._values.capability import Capabilities, Support
from queuekit._values.clock import Clock
from queuekit._values.diagnosis import Wanted
from queuekit._values.errors import (
    QueueKitError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from queuekit.backend import Interruptible

_AFTER_POLL_S = 5.0
# Where the service can wait for that long, nobody's policy waits for longer.
_LONG_S = 30 * 86_400.0


def check_fitness(link: Link, handlers: Sequence[AnyHandler]) -> None:
    """Refuse a queue that cannot do what a handler's policy says.

    A queue whose settings the URL does not tell is probed first. Where that fails the polls will tell why.

    Raises:
        UnsupportedError: No key could be held, attempts are not counted and cannot be, or the service gives
            up before queuekit.
        UsageError: A batch would gather for longer than its messages are ours.
    """
    known = link.capabilities
    _check_holds(link, handlers)
    _check_max_wait(link, handlers)
    if link.probed is None and (known.queues == "declared" or known.attempts == "none"):
        try:
            link.probed = link.guard.probe()
        except QueueKitError as error:
            check_counted(link, link.capabilities, error)
            return
    check_counted(link, link.capabilities)
    _check_native_limit(link, link.capabilities, max(each.retry.max_attempts for each in handlers))


def wanted_of(handlers: Sequence[AnyHandler]) -> Wanted:
    """What these handlers of one queue will ask of it."""
    most = max(each.retry.max_attempts for each in handlers)
    return Wanted(max_attempts=most, lease_s=handlers[0].options.lease.total_seconds())


def check_pushed(link: Link, handlers: Sequence[AnyHandler]) -> None:
    """Refuse what handlers ask of a worker, and nobody does where messages are pushed; no I/O.

    Raises:
        UnsupportedError: No key could be held.
        UsageError: They have a rate.
    """
    _check_holds(link, handlers)
    if any(each.options.rate is not None for each in handlers):
        msg = (
            f"handlers of {link.shown} have a rate, which only a worker can keep to; leave it out, and limit how "
            "many of their messages are pushed at once"
        )
        raise UsageError(msg, queue=link.shown, operation="open")


def check_answered(link: Link, handlers: Sequence[AnyHandler]) -> None:
    """Ask a queue whose messages are pushed for what its URL does not tell, and refuse one that cannot do.

    What may not be asked, or is not there under this name, counts as what the URL tells.

    Raises:
        UnsupportedError: Nothing pushes its messages; they are pushed without metadata; attempts are not counted and
            cannot be; or the service gives up before queuekit.
        UnavailableError: The service did not answer.
        ThrottledError: As before.
    """
    if link.backend.capabilities.pushes != "answered":
        msg = f"nothing pushes the messages of {link.shown} to a web address; use a worker"
        raise UnsupportedError(msg, queue=link.shown, operation="open")
    try:
        link.probed = link.guard.probe()
    except (UnavailableError, ThrottledError):
        raise
    except QueueKitError as error:
        link.journal.note("push.unprobed", str(error))
        return
    can = link.capabilities
    if not can.push_metadata:
        msg = (
            f"{link.shown} pushes the bodies of its messages and nothing beside them, not even whose they are; have "
            "the service write metadata with them, or wrap them"
        )
        raise UnsupportedError(msg, queue=link.shown, operation="open")
    if "attempts" not in can.assumed:
        check_counted(link, can)
    if handlers:
        _check_native_limit(link, can, max(each.retry.max_attempts for each in handlers))


def tell_limits(intake: Intake, handlers: Sequence[AnyHandler], clock: Clock, *, drain_s: float) -> None:
    """Say once, at the start of a worker, what will not be as it was asked for."""
    link = intake.link
    if drain_s < intake.poll_s + _AFTER_POLL_S and not isinstance(link.backend, Interruptible):
        detail = f"{drain_s:g} s, and a poll of {intake.poll_s:g} s cannot be interrupted; give the drain 5 s more"
        link.journal.note("worker.drain_short", detail)
    most_s = link.capabilities.longest_retry_s
    for each in handlers:
        longest_s = longest_wait_s(each.retry, clock) if most_s < _LONG_S else 0.0
        if longest_s > most_s:
            detail = (
                f"{each.message_type} waits up to {longest_s:g} s between attempts, and {most_s:g} s is the longest"
            )
            link.journal.note("retry.cut", detail)


def _check_holds(link: Link, handlers: Sequence[AnyHandler]) -> None:
    if link.capabilities.ordering == "none" and any(each.on_dead == "hold" for each in handlers):
        msg = f"{link.shown} does not order, so that no key could be held; leave out on_dead='hold'"
        raise UnsupportedError(msg, queue=link.shown, operation="open")


def _check_max_wait(link: Link, handlers: Sequence[AnyHandler]) -> None:
    if link.capabilities.extend != "none":
        return
    for each in handlers:
        if isinstance(each, BatchHandler) and each.batch.max_wait >= each.options.lease / 2:
            msg = f"{link.shown} cannot extend a lease; make max_wait shorter than half of it"
            raise UsageError(msg, queue=link.shown, operation="open")


def check_counted(link: Link, can: Capabilities, cause: QueueKitError | None = None) -> None:
    """Refuse a queue of which nobody could say how often a message was tried.

    Raises:
        UnsupportedError: It is one.
    """
    if can.counted_attempts is not Support.NONE:
        return
    remedy = "have the service count deliveries (on Pub/Sub: give the subscription a dead-letter policy)"
    if can.foreign and can.receives and can.copies == "private" and can.ordering == "none":
        remedy = "leave out ?foreign=true, so that queuekit counts by copies, or " + remedy
    msg = f"{link.shown} does not count attempts, so poison could run for ever; {remedy}"
    raise UnsupportedError(msg, queue=link.shown, operation="open") from cause


def _check_native_limit(link: Link, can: Capabilities, max_attempts: int) -> None:
    limit, slack = can.native_max_attempts, attempt_slack(can)
    if limit is None:
        return
    if limit <= max_attempts:
        msg = (
            f"the service gives up a message of {link.shown} after {limit} deliveries, and max_attempts is "
            f"{max_attempts}; raise the service's limit above {max_attempts + slack}, or lower max_attempts"
        )
        raise UnsupportedError(msg, queue=link.shown, operation="open")
    if limit <= max_attempts + slack:
        link.journal.note(
            "worker.native_limit",
            f"the service gives up after {limit} deliveries, and counts those that a stop gave back; "
            f"raise its limit above {max_attempts + slack}, for {max_attempts} attempts",
        )
