# SPDX-License-Identifier: Apache-2.0
"""The negative twins: what must hold where a capability is absent. Not declared must refuse, not pass by luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest

from queuekit._values.capability import FEATURES
from queuekit._values.errors import SetupError
from queuekit.backend import (
    Action,
    Admin,
    Cancellable,
    IncomingMessage,
    NotAttempted,
    Pausable,
    Peekable,
    PushCodec,
    Redrivable,
    Rejected,
    Settled,
    Settlement,
    Unsupported,
)
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue, message

Twin: TypeAlias = Callable[[Harness], None]


def _required(feature: str) -> Twin:
    """Asking for the feature when opening names it as missing."""

    def twin(harness: Harness) -> None:
        missing = harness.capabilities.missing([feature])
        assert missing == [feature], f"{feature} is absent, and require= does not say so"

    return twin


def _refused_send(feature: str, **fields: Any) -> Twin:
    """A backend that is handed the option all the same refuses the entry, and nothing arrives."""

    def twin(harness: Harness) -> None:
        _required(feature)(harness)
        queue = Queue(harness)
        (outcome,) = queue.send(message(**fields))
        assert isinstance(outcome, Rejected | NotAttempted), f"{feature} is absent, and the send is {outcome}"
        harness.pass_time(fields.get("delay_s", 0.0))
        queue.expect_nothing(f"a send that needs {feature} was refused")

    return twin


def _refused_settle(feature: str, settlement: Callable[[IncomingMessage], Settlement]) -> Twin:
    """The action answers Unsupported, and the delivery is as it was."""

    def twin(harness: Harness) -> None:
        queue = Queue(harness)
        queue.put(b"x")
        (got,) = queue.take()
        (outcome,) = queue.settle(settlement(got))
        assert isinstance(outcome, Unsupported), f"{feature} is absent, and the settlement is {outcome}"
        queue.expect_nothing("it is still leased: an unsupported action does nothing")
        assert isinstance(queue.ack(got)[0], Settled)

    return twin


def _not_claimed(feature: str, protocol: Any) -> Twin:
    """The optional protocol is not there to be called."""

    def twin(harness: Harness) -> None:
        _required(feature)(harness)
        assert not isinstance(harness.open(harness.unique_name()), protocol)

    return twin


def _no_short_extend(harness: Harness) -> None:
    """Where the service fixes the length, EXTEND reports the lease that it gave."""
    if harness.capabilities.extend == "none":
        TWINS["extend"](harness)
        return
    queue = Queue(harness)
    queue.put(b"x")
    (got,) = queue.take()
    outcome = queue.extend(got, harness.min_lease_s)
    assert isinstance(outcome, Settled)
    assert outcome.lease_until is not None


def _implicit(harness: Harness) -> None:
    """The first use of a queue makes it, and a send to it is accepted and arrives."""
    assert harness.capabilities.queues == "implicit"
    queue = Queue(harness)
    queue.put(b"first use")
    assert queue.take()[0].body == b"first use"


def _release_counts(harness: Harness) -> None:
    """RELEASE costs an attempt, as declared."""
    queue = Queue(harness)
    queue.put(b"x")
    (first,) = queue.take()
    queue.release(first)
    assert queue.take()[0].attempt in {None, 2}


def _no_wait(harness: Harness) -> None:
    """A receive that may wait still answers an empty queue with nothing."""
    poll = harness.start(lambda: Queue(harness).receive(wait_s=harness.min_delay_s))
    harness.until_blocked()
    harness.pass_time(harness.min_delay_s + harness.tolerance_s)
    assert poll.result("a receive of an empty queue") == []


def _no_subscriptions(harness: Harness) -> None:
    """A subscription of one's own is refused when opening."""
    _required("fanout")(harness)
    with pytest.raises(SetupError):
        harness.open(harness.unique_name(), subscription="one")


def _no_depth(harness: Harness) -> None:
    """A number that the service does not tell is None, and never a made-up 0."""
    backend = harness.open(harness.unique_name())
    if isinstance(backend, Admin):
        stats = backend.stats()
        assert (stats.ready, stats.delayed, stats.leased) == (None, None, None)


def _delay_with_ordering(harness: Harness) -> None:
    """Where nothing forbids it, an ordered message may be delayed, and is never early."""
    can = harness.capabilities
    if can.ordering == "none" or not can.max_delay_s:
        _required("ordering" if can.ordering == "none" else "delay")(harness)
        return
    queue = Queue(harness)
    queue.put(b"x", ordering_key="k", delay_s=harness.min_delay_s)
    queue.expect_nothing("it is delayed")
    harness.pass_time(harness.min_delay_s)
    assert queue.take(within_s=harness.tolerance_s)[0].ordering_key == "k"


def _no_disk(harness: Harness) -> None:
    """Nothing of the store is a file of this host; where it is the process's memory, durability is refused."""
    if harness.capabilities.durability == "process":
        _required("durable")(harness)


def _one_order_or_none(harness: Harness) -> None:
    """Where there are no keys, there is either one order for all, or an ordering key is refused."""
    if harness.capabilities.ordering == "none":
        TWINS["ordering"](harness)
        return
    queue = Queue(harness)
    bodies = [b"%d" % index for index in range(5)]
    queue.put(*bodies)
    assert [queue.take()[0].body for _ in bodies] == bodies


def _no_redrive(harness: Harness) -> None:
    """A backend whose dead letters cannot be moved back does not offer it, and asking for it is refused."""
    _required("redrive")(harness)
    backend = harness.open(harness.unique_name())
    assert not isinstance(backend, Redrivable)


TWINS: Mapping[str, Twin] = {
    **{feature: _required(feature) for feature in FEATURES},
    "absolute_extend": _no_short_extend,
    "admin": _not_claimed("admin", Admin),
    "cancel": _not_claimed("cancel", Cancellable),
    "declared": _implicit,
    "dedup": _refused_send("dedup", dedup_id="d"),
    "delay": _refused_send("delay", delay_s=1.0),
    "delay_refused_with_ordering": _delay_with_ordering,
    "depth": _no_depth,
    "disk": _no_disk,
    "extend": _refused_settle("extend", lambda got: Settlement(got.handle, Action.EXTEND, lease_s=10.0)),
    "fanout": _no_subscriptions,
    "long_poll": _no_wait,
    "native_dead_letters": _refused_settle(
        "native_dead_letters", lambda got: Settlement(got.handle, Action.DEAD, dead=message(b"dead"))
    ),
    "ordering": _refused_send("ordering", ordering_key="k"),
    "pause": _not_claimed("pause", Pausable),
    "peek": _not_claimed("peek", Peekable),
    "per_key": _one_order_or_none,
    "priority": _refused_send("priority", priority=9),
    "push": _not_claimed("push", PushCodec),
    "redrive": _no_redrive,
    "release": _release_counts,
    "retry_delay": _refused_settle("retry_delay", lambda got: Settlement(got.handle, Action.RETRY, delay_s=1.0)),
}
"""One twin per gate; the features that have no call of their own are refused by ``require=``."""
