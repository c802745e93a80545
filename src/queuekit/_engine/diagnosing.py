# SPDX-License-Identifier: Apache-2.0
"""What can be said about a queue's set-up: by its backend, and from its capabilities alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from queuekit._engine.guard import Guard
from queuekit._values.capability import Capabilities, Support
from queuekit._values.diagnosis import Diagnosis, Wanted
from queuekit._values.finding import Finding, by_gravity
from queuekit.backend import Backend, Diagnosable

_VOLATILE = Finding(
    severity="loss",
    code="volatile",
    text="the queue is kept in the memory of a process, and nowhere else",
    remedy="use a queue that is kept on disk",
    loses="everything, when the process that holds the queue ends",
)
_LENIENT = Finding(
    severity="note",
    code="late_settlements",
    text="a holder whose lease has ended may still settle a message that somebody else has by then",
    remedy="let handlers be safe to run twice, and leases be longer than what stops a worker for a moment",
)
_UNCONFIRMED = Finding(
    severity="note",
    code="acks_unconfirmed",
    text="the service does not say whether an ack took effect, so that a message may come again without a word",
)
_PLAINTEXT = Finding(
    severity="warning",
    code="plaintext",
    text="the connection to another host is not encrypted, so that messages and logins can be read on the way",
    remedy="use the form of the URL with TLS",
)
_NO_DEAD_LETTERS = Finding(
    severity="warning",
    code="no_dead_letters",
    text="the queue has no place for dead letters",
    remedy="name one with dead_letter=",
)


def diagnose(backend: Backend, guard: Guard, can: Capabilities, wanted: Wanted) -> Diagnosis:
    """Ask the backend, and add what follows from the capabilities.

    Args:
        backend: Whose queue it is.
        guard: The way to it.
        can: What the probe found.
        wanted: How the queue is going to be worked.

    Raises:
        QueueKitError: The service could not be asked.
    """
    own: Sequence[Finding] = ()
    if isinstance(backend, Diagnosable):
        own = guard.call("check", partial(backend.diagnose, wanted))
    findings = [*own, *_implied(can, wanted, lossy=any(each.severity == "loss" for each in own))]
    return Diagnosis(url=guard.queue, capabilities=can, findings=tuple(sorted(findings, key=by_gravity)))


def unusable(reason: Exception, guard: Guard, can: Capabilities, others: Sequence[Finding] = ()) -> Diagnosis:
    """What is to be said about a queue that cannot be used, beside what else was found."""
    found = Finding(
        severity="loss", code="unusable", text=str(reason), loses="whatever is meant for it, as it cannot be used"
    )
    return Diagnosis(url=guard.queue, capabilities=can, findings=(found, *others))


def _implied(can: Capabilities, wanted: Wanted, *, lossy: bool) -> Iterator[Finding]:
    if can.durability == "process" and not lossy:
        yield _VOLATILE
    if can.assumed:
        yield Finding(
            severity="note",
            code="assumed",
            text=f"the service would not tell {', '.join(sorted(can.assumed))}, so that these are guesses",
        )
    if can.plaintext:
        yield _PLAINTEXT
    if can.fencing != "strict":
        yield _LENIENT
    if not can.ack_confirmed:
        yield _UNCONFIRMED
    if can.dead_letters is Support.NONE:
        yield _NO_DEAD_LETTERS
    yield from _against(can, wanted)


def _against(can: Capabilities, wanted: Wanted) -> Iterator[Finding]:
    limit, attempts, lease_s = can.native_max_attempts, wanted.max_attempts, wanted.lease_s
    if limit is not None and attempts is not None and limit <= attempts:
        yield Finding(
            severity="warning",
            code="native_limit",
            text=f"the service gives up a message after {limit} deliveries, and max_attempts is {attempts}",
            remedy="raise the service's limit above max_attempts, or lower max_attempts",
        )
    if lease_s is not None and can.lease == "timed" and not can.min_lease_s <= lease_s <= can.max_lease_s:
        yield Finding(
            severity="warning",
            code="lease_out_of_range",
            text=f"the lease is {lease_s:g} s, and the queue has {can.min_lease_s:g} s to {can.max_lease_s:g} s",
            remedy="choose a lease that lies between them",
        )
