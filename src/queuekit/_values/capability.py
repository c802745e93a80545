# SPDX-License-Identifier: Apache-2.0
"""What a backend can do, as data with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal

LONGEST_BRIDGED_S = 36_500 * 86_400.0
"""A hundred years: what lies beyond is a mistake, and ends after what an instant can be written for."""


SHORTEST_ANSWER_S = 10.0
"""For so long at least whoever pushes waits for an answer: the shortest that Pub/Sub knows, and its default."""

_HELD = 0.6


class Support(StrEnum):
    """How a feature comes about."""

    NATIVE = "native"
    """The backend does it."""
    BRIDGED = "bridged"
    """queuekit builds it from what the backend can do, at a cost that the backend's page states."""
    NONE = "none"
    """It is refused with `UnsupportedError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one queue can do. Static from the URL at first, then refined by `Backend.probe`.

    Numbers are in seconds and bytes. A number of 0 means that the feature is absent.

    Attributes:
        queues: ``implicit``: first use makes the queue. ``declared``: it must exist already.
        copies: ``private``: a copy that the engine sends back reaches this consumer group only.
            ``fanout``: it would reach every subscription.
        plaintext: Whether what is sent to the service, and what comes from it, can be read on the way: it goes to
            another host, and nothing encrypts it.
        durability: What an accepted message survives: the end of nothing (``process``), of the process
            and the host (``disk``), or of a host's disk (``replicated``).
        max_message_bytes: Largest message, by `Backend.size`.
        max_send_batch: Most messages in one `Backend.send`.
        max_send_batch_bytes: Most bytes in one `Backend.send`, by `Backend.size`.
        atomic_send: Whether a send batch is accepted or refused as one.
        one_key_per_send: Whether all messages of one `Backend.send` must share an ordering key.
        max_receive: Most messages in one `Backend.receive`.
        max_settle_batch: Most entries in one `Backend.settle`.
        mixed_settles: Whether one `Backend.settle` may mix actions and lengths.
        lease: ``timed``, or bound to the ``connection``.
        min_lease_s: Shortest lease.
        max_lease_s: Longest lease that one receive or one extension can ask for.
        max_lease_total_s: Longest time that a delivery can be kept by extending; None is no limit.
        extend: ``absolute``: any length, from now. ``quantum``: a length that the service fixes. ``none``.
        fencing: Whether a holder whose lease went to another can still settle: never (``strict``),
            sometimes (``lenient``), always (``none``).
        late_ack_safe: Whether an ACK sent after the lease ended can only succeed or be refused.
        ack_confirmed: Whether `Settled` means that the service said so.
        attempts: Whether the delivery count is ``exact``, ``approximate`` or absent (``none``).
        native_max_attempts: After how many deliveries the service itself puts a message into its dead-letter
            queue, or drops it; None where it never does.
        release_counts: Whether a RELEASE costs the message an attempt all the same.
        redelivers_unasked: Whether a message may be delivered once more for no reason, even after its ACK.
        max_delay_s: Longest delay of a send that the service itself keeps.
        delay_resolution_s: Smallest step of a delay; delays are rounded up to it.
        max_retry_delay_s: Longest delay of a RETRY that the service itself keeps.
        min_retry_delay_s: Shortest delay of a RETRY other than 0.
        retry_delay_resolution_s: Smallest step of a RETRY's delay.
        retries_by_copy: Whether each RETRY is a copy that is due when it should be, because the service itself keeps
            no wait that was asked for.
        ordering: ``per_key``, ``global`` or ``none``.
        one_in_flight_per_key: Whether the service hands out no message of an ordering key while another of it is
            leased. Where it does, the engine works on them one at a time.
        ordering_key_required: Whether a message without an ordering key is refused.
        delay_with_ordering: Whether a message may have both an ordering key and a delay.
        fair_keys: Whether a message may have an ordering key that orders nothing: it names the tenant that the
            message belongs to, so that one with many messages does not keep the others waiting.
        dedup_window_s: How long a dedup id is remembered.
        dedup_id_required: Whether every message needs a dedup id. The engine makes one where the user gave none,
            the same for every try to send the message.
        dead_letters: Whether the backend stores a dead letter and removes the original in one step.
        dead_letter_queue: URL of the queue into which the service itself puts dead letters, where the probe learned
            it. A worker whose handlers name none sends its own there too.
        redrive: How dead letters go back: in one step, by confirmed copies (``bridged``), or not at all.
        priority_levels: How many priorities it tells apart.
        fanout: Whether several subscriptions can each get every message.
        expiry: Who drops a message that has expired.
        long_poll: Whether `Backend.receive` returns as soon as a message arrives.
        max_polls: How many receives of one consumer may run at once, where several bring more than one does. Beyond
            the first they begin only while receives come back full.
        wait_at_least_s: The least time that an empty `Backend.receive` takes whatever was asked.
        admin: Whether the queue can be made, removed and asked for.
        peek: Whether messages can be looked at without leasing them.
        purge: Whether a queue can be emptied.
        purges_leased: Whether emptying it also removes what is leased.
        depth: Whether the number of messages is ``exact``, ``approximate`` or unknown (``none``).
        cancel: Whether a message that is not due yet can be cancelled.
        pause: Whether the queue can be paused for everybody who receives.
        receives: Whether messages can be pulled; a push-only service has False.
        pushes: Whether the service hands over messages by itself, to a front door of an app: never (``none``), with
            handles that settle as those of a receive do (``settled``), or so that nothing but the answer settles
            them (``answered``).
        push_deadline_s: For how long whoever pushes waits for the answer, where the probe learned it.
        push_metadata: Whether what is pushed carries attributes, metadata and the name of its queue; the probe learns
            where it does not.
        foreign: Whether consumers other than queuekit's take part, by ``?foreign=true``: then nothing is
            bridged by copies, which only queuekit would understand.
        via_delay_s: Longest delay that the queue named by ``delay_via=`` keeps for this one; 0 where none is named.
            Set by the engine. What waits there costs a send, a receive and an ack more.
        server: Name and version of the server, where the probe learned it.
        assumed: Fields that the probe was not allowed to see, so that the value is a guess.
    """

    queues: Literal["implicit", "declared"]
    durability: Literal["process", "disk", "replicated"]
    max_message_bytes: int
    plaintext: bool = False
    copies: Literal["private", "fanout"] = "private"
    max_send_batch: int = 1
    max_send_batch_bytes: int | None = None
    atomic_send: bool = False
    one_key_per_send: bool = False
    max_receive: int = 1
    max_settle_batch: int = 1
    mixed_settles: bool = False
    lease: Literal["timed", "connection"] = "timed"
    min_lease_s: float = 0.0
    max_lease_s: float = 0.0
    max_lease_total_s: float | None = None
    extend: Literal["absolute", "quantum", "none"] = "none"
    fencing: Literal["strict", "lenient", "none"] = "none"
    late_ack_safe: bool = False
    ack_confirmed: bool = True
    attempts: Literal["exact", "approximate", "none"] = "none"
    native_max_attempts: int | None = None
    release_counts: bool = True
    redelivers_unasked: bool = False
    max_delay_s: float = 0.0
    delay_resolution_s: float = 0.001
    max_retry_delay_s: float = 0.0
    min_retry_delay_s: float = 0.0
    retry_delay_resolution_s: float = 0.001
    retries_by_copy: bool = False
    ordering: Literal["none", "per_key", "global"] = "none"
    one_in_flight_per_key: bool = False
    ordering_key_required: bool = False
    delay_with_ordering: bool = False
    fair_keys: bool = False
    dedup_window_s: float = 0.0
    dedup_id_required: bool = False
    dead_letters: Support = Support.BRIDGED
    dead_letter_queue: str = ""
    redrive: Support = Support.NONE
    priority_levels: int = 0
    fanout: bool = False
    expiry: Support = Support.BRIDGED
    long_poll: bool = False
    max_polls: int = 1
    wait_at_least_s: float = 0.0
    admin: bool = False
    peek: bool = False
    purge: bool = False
    purges_leased: bool = False
    depth: Literal["exact", "approximate", "none"] = "none"
    cancel: bool = False
    pause: bool = False
    receives: bool = True
    pushes: Literal["none", "settled", "answered"] = "none"
    push_deadline_s: float | None = None
    push_metadata: bool = True
    foreign: bool = False
    via_delay_s: float = 0.0
    server: str = ""
    assumed: frozenset[str] = field(default_factory=frozenset)

    @property
    def own_copies(self) -> bool:
        """Whether a copy that the engine sends back to the queue reaches those who should get it, and nobody else."""
        returns = self.receives or self.pushes != "none"
        return returns and self.copies == "private" and not self.foreign

    @property
    def unordered_copies(self) -> bool:
        """Whether there are messages that may be put at the end of the queue anew: those without an ordering key."""
        return self.ordering != "global" and not self.ordering_key_required

    @property
    def long_delay(self) -> Support:
        """How a delay beyond `max_delay_s` comes about: through ``delay_via=``, by hops, or not at all.

        A hop is as long as the service can. A message with an ordering key takes neither way: it would lose its
        place among others of its key.
        """
        return Support.BRIDGED if self._bridged_delay_s() > self.max_delay_s else Support.NONE

    @property
    def longest_delay_s(self) -> float:
        """Longest delay of a send without an ordering key, bridged ones included; 0 where there is none."""
        return max(self.max_delay_s, self._bridged_delay_s())

    @property
    def longest_retry_s(self) -> float:
        """Longest wait of a policy before a retry of a message without an ordering key, kept without its lease."""
        each_copied = self.retries_by_copy and self.own_copies
        by_copy = (self.counted_attempts is Support.BRIDGED or each_copied) and self.max_delay_s > 0
        longest_s = self.max_delay_s if by_copy else self.max_retry_delay_s
        return max(longest_s, self.via_delay_s) if self.own_copies and self.unordered_copies else longest_s

    @property
    def counted_attempts(self) -> Support:
        """How attempts are counted: by the service; by queuekit, where each retry is a copy; or not at all."""
        if self.attempts != "none":
            return Support.NATIVE
        return Support.BRIDGED if self.own_copies and self.ordering == "none" else Support.NONE

    def by_answer(self, stated_s: float | None = None) -> Capabilities:
        """The same for messages that were pushed, where nothing but the answer settles them.

        The answer says whether a message is to come again, not when; its time cannot be extended. Where copies
        count the attempts, the answer can be put off before the copy is sent, for a part of the time that there is.

        Args:
            stated_s: For how long the answer is awaited, where that is known better than by `push_deadline_s`.
        """
        deadline_s = stated_s or self.push_deadline_s or SHORTEST_ANSWER_S
        held = self.counted_attempts is Support.BRIDGED
        return replace(
            self,
            extend="none",
            max_retry_delay_s=deadline_s * _HELD if held else 0.0,
            min_retry_delay_s=0.0,
            late_ack_safe=False,
            push_deadline_s=deadline_s,
        )

    def _bridged_delay_s(self) -> float:
        if not self.unordered_copies:
            return 0.0
        return LONGEST_BRIDGED_S if self.own_copies and self.max_delay_s > 0 else self.via_delay_s

    def missing(self, require: Iterable[str] | Mapping[str, Any]) -> list[str]:
        """Say which of the required features this queue lacks, each as a sentence fragment.

        Args:
            require: Names from `FEATURES`; as a mapping, a name with the least amount that will do
                (a `timedelta` for times, a number for the rest).

        Raises:
            ValueError: A name that is not in `FEATURES`.
        """
        wanted = require if isinstance(require, Mapping) else dict.fromkeys(require, True)
        return [text for name, least in wanted.items() if (text := self._lacks(name, least))]

    def _lacks(self, name: str, least: Any) -> str:
        feature = FEATURES.get(name)
        if feature is None:
            msg = f"no feature is called {name!r}; known are {', '.join(sorted(FEATURES))}"
            raise ValueError(msg)
        have = feature(self)
        need = least.total_seconds() if isinstance(least, timedelta) else least
        if not have:
            return name
        if need is True or isinstance(have, bool) or have >= need:
            return ""
        return f"{name} of {need:g} (here {have:g})"


FEATURES: Mapping[str, Callable[[Capabilities], bool | float]] = {
    "ack_confirmed": lambda c: c.ack_confirmed,
    "admin": lambda c: c.admin,
    "attempts": lambda c: c.attempts != "none",
    "cancel": lambda c: c.cancel,
    "dead_letters": lambda c: c.dead_letters is not Support.NONE,
    "dedup": lambda c: c.dedup_window_s,
    "delay": lambda c: c.longest_delay_s,
    "depth": lambda c: c.depth != "none",
    "durable": lambda c: c.durability != "process",
    "expiry": lambda c: c.expiry is not Support.NONE,
    "extend": lambda c: c.extend != "none",
    "fanout": lambda c: c.fanout,
    "lease": lambda c: c.max_lease_s if c.lease == "timed" else False,
    "long_poll": lambda c: c.long_poll,
    "message_bytes": lambda c: c.max_message_bytes,
    "ordering": lambda c: c.ordering != "none",
    "pause": lambda c: c.pause,
    "peek": lambda c: c.peek,
    "priority": lambda c: c.priority_levels,
    "purge": lambda c: c.purge,
    "push": lambda c: c.pushes != "none",
    "receive": lambda c: c.receives,
    "redrive": lambda c: c.redrive is not Support.NONE,
    "release": lambda c: not c.release_counts,
    "retry_delay": lambda c: c.max_retry_delay_s,
    "strict_fencing": lambda c: c.fencing == "strict",
}
"""The features that ``require=`` knows: True, False, or how much of it there is."""
