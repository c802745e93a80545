# SPDX-License-Identifier: Apache-2.0
"""From what a user sends to what a backend takes: every check that needs no I/O happens here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from queuekit._engine import metadata as meta
from queuekit._engine.bridging import Bridge
from queuekit._engine.codec import Codec
from queuekit._engine.hops import MANY_HOPS_S, delayed, hops_of
from queuekit._engine.sendable import check_texts, checked_attributes, is_message_id
from queuekit._engine.waits import possible_delay_s
from queuekit._values.capability import Capabilities, Support
from queuekit._values.clock import Clock
from queuekit._values.errors import (
    InvalidMessageError,
    MessageTooLargeError,
    QueueKitError,
    UnsupportedError,
    UsageError,
)
from queuekit._values.message import Message
from queuekit._values.outcome import ErrorClass, ErrorCode, Rejected
from queuekit.backend import Backend, OutgoingMessage

T = TypeVar("T")

logger = logging.getLogger("queuekit")

_WORST = bytes(300)  # no service that carries text can carry this as it is


@dataclass(frozen=True, slots=True)
class Composed:
    """What became of a sequence of payloads before any I/O.

    Attributes:
        messages: Those that can be sent, in order.
        positions: For each of them, its position in the input; None when nothing was rejected.
        rejected: Position to the answer for those that cannot be sent.
    """

    messages: list[OutgoingMessage]
    positions: list[int] | None
    rejected: dict[int, Rejected]


class Composer(Generic[T]):
    """Checks and encodes payloads for one queue.

    Args:
        codec: For the payload type.
        backend: Whose limits hold.
        clock: For due times and ids.
        default_type: The message type of messages that name none.
        queue: The queue's redacted URL, for errors.
        excess: Bytes and limit of a message that is too large for where it waits for its time.

    Concurrency:
        Safe from any thread.
    """

    def __init__(
        self,
        codec: Codec[T],
        backend: Backend,
        clock: Clock,
        *,
        default_type: str | None,
        queue: str,
        excess: Callable[[OutgoingMessage], tuple[int, int] | None] = lambda _: None,
    ) -> None:
        self._codec, self._excess = codec, excess
        self._backend = backend
        self._clock = clock
        self._queue = queue
        self._warned = False
        self.use(backend.capabilities)
        # Plain messages share one mapping, so that nothing per message is made or packed for metadata.
        self._metadata = _metadata(codec.content_type, default_type)
        self._overhead, self._growth = self._wire()

    def _wire(self) -> tuple[int, float]:
        """The bytes of a plain message beside its body, and how much longer the worst body becomes on the wire."""
        empty, worst = (
            self._backend.size(OutgoingMessage("x" * 32, body, meta.EMPTY, self._metadata)) for body in (b"", _WORST)
        )
        return empty, max(1.0, (worst - empty) / len(_WORST))

    def use(self, capabilities: Capabilities) -> None:
        """Hold messages against what the probe found, from now on."""
        self._capabilities = capabilities
        self._bridge = Bridge(capabilities)

    def compose(self, message: Message[T]) -> OutgoingMessage:
        """Check and encode one message.

        Raises:
            InvalidMessageError: An option or attribute that no backend can carry.
            MessageTooLargeError: More bytes than the queue takes.
            UnsupportedError: An option that this queue has not.
            EncodeError: The payload is not of the declared type.
        """
        return self._with_options(message, self._clock.token_bytes(16).hex())

    def compose_many(self, items: Iterable[T | Message[T]]) -> Composed:
        """Check and encode many; what cannot be sent is answered for and does not stop the rest."""
        given = list(items)
        random = self._clock.token_bytes(16 * len(given)).hex()
        ids = [random[start : start + 32] for start in range(0, len(random), 32)]
        messages = self._compose_plain(given, ids)
        return Composed(messages, None, {}) if messages is not None else self._compose_singly(given, ids)

    def _compose_plain(self, given: list[Any], ids: list[str]) -> list[OutgoingMessage] | None:
        """All at once, where none has options or is refused; None where one may be."""
        if any(issubclass(each, Message) for each in set(map(type, given))):
            return None
        bodies = self._codec.encode_many(given)
        if bodies is None or max(map(len, bodies), default=0) > self._plain_limit():
            return None
        new, make, attributes, metadata = tuple.__new__, OutgoingMessage, meta.EMPTY, self._metadata
        # A tuple of known length is made at half of a named tuple's own cost.
        return [
            new(make, (message_id, body, attributes, metadata, 0.0, None, None, 0))
            for message_id, body in zip(ids, bodies, strict=True)
        ]

    def _compose_singly(self, given: list[Any], ids: list[str]) -> Composed:
        messages: list[OutgoingMessage] = []
        rejected: dict[int, Rejected] = {}
        for position, (item, message_id) in enumerate(zip(given, ids, strict=True)):
            try:
                messages.append(self._compose_one(item, message_id))
            except QueueKitError as error:
                rejected[position] = rejection(error, _id_of(item, message_id))
        positions = [index for index in range(len(given)) if index not in rejected] if rejected else None
        return Composed(messages, positions, rejected)

    def _compose_one(self, item: Any, message_id: str) -> OutgoingMessage:
        if isinstance(item, Message):
            return self._with_options(item, message_id)
        made = OutgoingMessage(message_id, self._codec.encode(item), meta.EMPTY, self._metadata)
        if len(made.body) > self._plain_limit():
            self._check_plain(made)
        return made

    def _plain_limit(self) -> int:
        """Bodies up to here need no exact count; below 0 where every message needs more than the body."""
        if self._capabilities.ordering_key_required:
            return -1
        return int((self._capabilities.max_message_bytes - self._overhead) / self._growth)

    def _with_options(self, message: Message[T], fresh_id: str) -> OutgoingMessage:
        delay_s = self._delay_s(message)
        check_texts(message)
        self._check_supported(message, delay_s)
        made = OutgoingMessage(
            message.message_id if message.message_id is not None else fresh_id,
            self._codec.encode(message.payload),
            checked_attributes(message.attributes) if message.attributes else meta.EMPTY,
            self._metadata_of(message, delay_s),
            delay_s,
            message.ordering_key,
            self._dedup_id(message, delay_s),
            message.priority or 0,
        )
        if delay_s > max(self._capabilities.max_delay_s, self._capabilities.via_delay_s):
            made = self._in_hops(made, delay_s)
        self._check_size(made)
        if delay_s and (excess := self._excess(made)) is not None:
            msg = f"the message has {excess[0]} bytes, and where delay_via= lets it wait takes {excess[1]}"
            raise MessageTooLargeError(
                f"{msg}; send a reference to the data",
                size=excess[0],
                limit=excess[1],
                queue=self._queue,
                operation="send",
            )
        return made

    def _dedup_id(self, message: Message[T], delay_s: float) -> str | None:
        can = self._capabilities
        # What is forwarded twice, because its forwarder ended in between, is to be taken once.
        detoured = can.dedup_window_s > 0 and can.max_delay_s < delay_s <= can.via_delay_s
        if message.dedup_id is not None or not (can.dedup_id_required or detoured):
            return message.dedup_id
        # Not made of the message: to send an equal one twice is to send two.
        return f"qk-{self._clock.token_bytes(16).hex()}"

    def _in_hops(self, message: OutgoingMessage, delay_s: float) -> OutgoingMessage:
        if delay_s > MANY_HOPS_S and not self._warned:
            self._warned = True
            logger.warning(
                "a delay of %g s on %s takes %d hops, each a send, a receive and an ack; a scheduler may be cheaper",
                delay_s,
                self._queue,
                hops_of(delay_s, self._capabilities),
                extra={"action": "delay.many_hops"},
            )
        return delayed(message, delay_s, self._capabilities, self._clock.time())

    def _delay_s(self, message: Message[T]) -> float:
        if message.delay is not None and message.not_before is not None:
            msg = "delay and not_before are both given; give one"
            raise UsageError(msg)
        if message.delay is not None:
            return possible_delay_s(_seconds("delay", message.delay), self._capabilities)
        if message.not_before is None:
            return 0.0
        if not isinstance(message.not_before, datetime) or message.not_before.tzinfo is None:
            msg = f"not_before must be an aware datetime and is {message.not_before!r}; give it a time zone"
            raise InvalidMessageError(msg)
        return possible_delay_s(max(0.0, message.not_before.timestamp() - self._clock.time()), self._capabilities)

    def _check_supported(self, message: Message[T], delay_s: float) -> None:
        can = self._capabilities
        if delay_s:
            self._check_delay(delay_s, message.ordering_key)
        if message.ordering_key is not None and can.ordering == "none" and not can.fair_keys:
            self._refuse("an ordering key", "use a queue that orders")
        if message.ordering_key is None:
            self._check_key_not_required()
        if message.dedup_id is not None and not can.dedup_window_s:
            self._refuse("a dedup id", "leave it out, and make the handler idempotent")
        if message.expires_in is not None and can.expiry is Support.NONE:
            self._refuse("an expiry", "leave it out, and let the handler look at the time")
        if message.priority and not can.priority_levels:
            self._refuse("a priority", "use one queue per priority")

    def _check_delay(self, delay_s: float, ordering_key: str | None) -> None:
        can = self._capabilities
        if can.ordering_key_required and not can.delay_with_ordering:
            self._refuse("a delay, as each of its messages has an ordering key", "leave the delay out")
        if delay_s > can.max_delay_s and not self._bridge.takes_delay(delay_s, ordering_key):
            self._refuse(f"a delay of {delay_s:g} s", self._longest_delay(ordering_key))
        if ordering_key is not None and not can.delay_with_ordering:
            self._refuse("a delay together with an ordering key", "leave one of them out")

    def _longest_delay(self, ordering_key: str | None) -> str:
        can = self._capabilities
        longest = f"its longest is {can.max_delay_s:g} s"
        if ordering_key is None and can.long_delay is Support.BRIDGED:
            return f"its longest is {can.longest_delay_s:g} s"
        if can.foreign and can.max_delay_s:
            return f"{longest}, and ?foreign=true rules out the hops that a longer one takes"
        if ordering_key is not None and can.long_delay is Support.BRIDGED:
            return f"{longest} with an ordering key, which a longer one would lose its place by"
        if not can.max_delay_s and not can.via_delay_s and can.unordered_copies:
            return f"{longest}; name a queue that keeps delays with delay_via="
        return longest

    def _check_key_not_required(self) -> None:
        if self._capabilities.ordering_key_required:
            msg = f"{self._queue} needs an ordering key for every message; pass ordering_key="
            raise InvalidMessageError(msg)

    def _check_plain(self, message: OutgoingMessage) -> None:
        self._check_key_not_required()
        self._check_size(message)

    def _refuse(self, what: str, remedy: str) -> None:
        msg = f"{self._queue} cannot take {what}; {remedy}"
        raise UnsupportedError(msg, queue=self._queue, operation="send")

    def _metadata_of(self, message: Message[T], delay_s: float) -> Mapping[str, str]:
        if not _has_metadata_of_its_own(message):
            return self._metadata
        changed = dict(self._metadata)
        changed.update(self._retry_options(message))
        if message.type is not None:
            changed[meta.TYPE] = message.type
        if message.dedup_id is not None:
            changed[meta.DEDUP] = message.dedup_id
        if message.expires_in is not None:
            expires_s = _seconds("expires_in", message.expires_in)
            if expires_s <= delay_s:
                msg = "expires_in ends before the message is due; make it longer than the delay"
                raise InvalidMessageError(msg)
            changed[meta.EXPIRES] = self._expiry(expires_s)
        return changed

    def _retry_options(self, message: Message[T]) -> Iterable[tuple[str, str]]:
        if message.max_attempts is not None:
            if type(message.max_attempts) is not int or not 1 <= message.max_attempts <= meta.MOST_ATTEMPTS:
                msg = f"max_attempts must be a whole number from 1 to {meta.MOST_ATTEMPTS}"
                raise InvalidMessageError(f"{msg} and is {message.max_attempts!r}")
            limit = self._capabilities.native_max_attempts
            if limit is not None and message.max_attempts >= limit:
                remedy = f"its service gives up after {limit} deliveries; raise that, or ask for fewer"
                self._refuse(f"max_attempts of {message.max_attempts}", remedy)
            yield meta.MAX_ATTEMPTS, str(message.max_attempts)
        if message.retry_delay is not None:
            can, retry_s = self._capabilities, _seconds("retry_delay", message.retry_delay)
            keyed = message.ordering_key is not None and can.ordering != "none"
            longest_s = can.max_retry_delay_s if keyed else can.longest_retry_s
            if retry_s > longest_s:
                self._refuse(f"a retry_delay of {retry_s:g} s", f"its longest is {longest_s:g} s")
            yield meta.RETRY_DELAY, f"{retry_s:.6f}".rstrip("0").rstrip(".")

    def _expiry(self, expires_s: float) -> str:
        try:
            return meta.write_instant(self._clock.time() + expires_s)
        except (ValueError, OverflowError):
            msg = f"expires_in of {expires_s:g} s ends after the year 9999; leave it out"
            raise InvalidMessageError(msg) from None

    def _check_size(self, message: OutgoingMessage) -> None:
        size, limit = self._backend.size(message), self._capabilities.max_message_bytes
        if size > limit:
            msg = f"the message has {size} bytes and {self._queue} takes {limit}; send a reference to the data"
            raise MessageTooLargeError(msg, size=size, limit=limit, queue=self._queue, operation="send")


def _metadata(content_type: str, message_type: str | None) -> dict[str, str]:
    made = {meta.V: meta.VERSION, meta.CONTENT_TYPE: content_type}
    return made if message_type is None else made | {meta.TYPE: message_type}


_IN_METADATA = ("type", "expires_in", "dedup_id", "max_attempts", "retry_delay")


def _has_metadata_of_its_own(message: Message[Any]) -> bool:
    return any(getattr(message, name) is not None for name in _IN_METADATA)


def _seconds(name: str, length: Any) -> float:
    if not isinstance(length, timedelta):
        msg = f"{name} must be a timedelta and is {type(length).__name__}; write timedelta(seconds=…)"
        raise UsageError(msg)
    seconds = length.total_seconds()
    if seconds < 0 or not math.isfinite(seconds):
        msg = f"{name} must not be negative and is {seconds:g} s"
        raise InvalidMessageError(msg)
    return seconds


def rejection(error: QueueKitError, message_id: str) -> Rejected:
    """The outcome of a message that an error kept from being sent."""
    return Rejected(_entry_error(error), message_id)


def _entry_error(error: QueueKitError) -> ErrorClass:
    try:
        code = ErrorCode(error.code)
    except ValueError:
        code = ErrorCode.INVALID_MESSAGE
    return ErrorClass(code, sent="no", detail=str(error), raw=error)


def _id_of(item: Any, fresh_id: str) -> str:
    given = item.message_id if isinstance(item, Message) else None
    return given if is_message_id(given) else fresh_id
