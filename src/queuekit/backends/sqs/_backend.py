# SPDX-License-Identifier: Apache-2.0
"""The SQS backend itself: each method is one request, of up to ten entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from queuekit._values.hosts import is_plaintext
from queuekit.backend import (
    Accepted,
    BackendSpec,
    Capabilities,
    ErrorClass,
    ErrorCode,
    Finding,
    IncomingMessage,
    Move,
    Opening,
    OutgoingMessage,
    QueueStats,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    Support,
    Unknown,
    Wanted,
)
from queuekit.backends._counting import Calls
from queuekit.backends.sqs import _diagnosing, _entries, _errors, _managing, _messages, _moving, _probing
from queuekit.backends.sqs._clients import LONGEST_POLL_S, METHODS, Clients
from queuekit.backends.sqs._options import FIFO, FORMS, SqsOptions, checked_name, place_of
from queuekit.backends.sqs._polling import Polls
from queuekit.backends.sqs._repeating import LostAnswers
from queuekit.backends.sqs._settling import LONGEST_S, Handle, Plan

MOST_BYTES = 1 << 20
"""Of a message, and of a batch of them."""

_BATCH = 10
_POLLS = 4  # with an answer in some 15 ms they bring more than one process can handle
_BRIEF_POLL_S = 1
"""Of a poll after a full one: it costs what every poll costs, and will hardly wait."""
_LONGEST_DELAY_S = 900
_DEDUP_S = 300.0
_SHORTEST_LEASE_S = 2.0
"""SQS knows shorter ones; but the shortest poll that costs no more than others takes a second of it."""

_DIED_ON = "DeadLetterQueueSourceArn"
_STAMPS = ("ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp", _DIED_ON)

_DAMAGED = ErrorClass(
    ErrorCode.UNAVAILABLE, detail="the service stored something else than was sent, by its own digest of it"
)


def _unfit(detail: str, code: ErrorCode = ErrorCode.UNSUPPORTED) -> ErrorClass:
    return ErrorClass(code, sent="no", detail=detail)


_NO_DELAY = _unfit("a FIFO queue takes no delay per message; set one for the queue, or use a standard queue")
_LONG_DELAY = _unfit(f"SQS keeps a delay of {_LONGEST_DELAY_S} s at most")
_NO_KEY = _unfit("a message to a FIFO queue needs an ordering key", ErrorCode.INVALID_MESSAGE)
_NOT_ORDERED = _unfit("a standard queue orders nothing; ?fair=true sends the key as the tenant that it belongs to")
_NO_DEDUP = _unfit("a standard queue knows no dedup ids; use a FIFO queue")
_NO_PRIORITY = _unfit("SQS has no priorities; ?lanes= makes them of several queues")


class SqsBackend:
    """One queue.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._queue: str = checked_name(opening.queue)
        self._options: SqsOptions = opening.options
        self._own_url = opening.url
        self._account = opening.url.user
        self._clock = opening.clock
        place = place_of(opening)
        self._clients = opening.clients.get(("sqs", place), lambda: Clients(place), Clients.close)
        self._calls = Calls()
        self._fifo = self._queue.endswith(FIFO)
        self._grouped = self._fifo or self._options.fair
        self._writer, self._reader = _messages.Writer(grouped=self._grouped), _messages.Reader(grouped=self._grouped)
        self._stamps = [*_STAMPS, "MessageGroupId"] if self._grouped else list(_STAMPS)
        self._polls: Polls[list[Any]] = Polls(opening.clock)
        self._lost = LostAnswers()
        self._url = ""
        self._flows = False
        self._place = (place.region, place.endpoint, self._account or "", self._queue)
        kind = _fifo_queue() if self._fifo else _standard_queue(fair=self._options.fair)
        self._capabilities = replace(kind, plaintext=is_plaintext(place.endpoint))

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def api_calls(self) -> Mapping[str, int]:
        """How often each operation of the service was asked for since this backend was opened."""
        return self._calls.read()

    def probe(self) -> Capabilities:
        """Ask for the queue's settings. See `Backend.probe`.

        Raises:
            Exception: The SDK's own, for another reason than a permission that is missing.
        """
        try:
            return _probing.refined(self._capabilities, self._settings(), self._url_of)
        except Exception as error:
            if not _errors.lacks_permission(_errors.classify(error)):
                raise
            return replace(self._capabilities, assumed=_probing.ASSUMED)

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        """See `Diagnosable.diagnose`."""
        address = self._asked(lambda: {"QueueUrl": self._address()})
        if isinstance(address, ErrorClass):
            return [_diagnosing.NO_ADDRESS]
        return _diagnosing.diagnose(self._asked(self._settings), self._queue, wanted, self._ask_dead_letters)

    def size(self, message: OutgoingMessage) -> int:
        """See `Backend.size`."""
        return self._writer.size(message)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Send a batch in one request. See `Backend.send`."""
        outcomes: dict[int, SendOutcome] = {}
        entries: list[dict[str, Any]] = []
        for position, message in enumerate(batch):
            unfit = self._unfit(message)
            if unfit is not None:
                outcomes[position] = Rejected(unfit, message.message_id)
            else:
                entries.append(self._entry(message, str(len(entries))))
        if entries:
            client = self._clients.calling(timeout_s)
            answer = self._call_with(client, "SendMessageBatch", QueueUrl=self._address(), Entries=entries)
            going = [position for position in range(len(batch)) if position not in outcomes]
            for position, entry, told in zip(going, entries, _entries.read(answer, len(entries)), strict=True):
                outcomes[position] = _outcome(batch[position].message_id, entry, told)
        return [outcomes[position] for position in range(len(batch))]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Lease up to ten messages; whole seconds, rounded up. See `Backend.receive`."""
        url = self._address()
        lease = math.ceil(lease_s)
        seconds = min(math.ceil(wait_s), self._longest_poll_s(lease))
        asked_at = self._clock.monotonic()

        def ask() -> list[Any]:
            nonlocal asked_at
            asked_at = self._clock.monotonic()
            return self._ask(
                self._clients.polling() if seconds else self._clients.calling(),
                QueueUrl=url,
                MaxNumberOfMessages=min(max_messages, _BATCH),
                VisibilityTimeout=lease,
                WaitTimeSeconds=seconds,
                MessageSystemAttributeNames=self._stamps,
                MessageAttributeNames=["All"],
            )

        if self._flows and seconds:
            seconds = _BRIEF_POLL_S
            found = self._polls.run_here(ask, self._give_back)
        else:
            found = self._polls.run(ask, self._give_back) if seconds else ask()
        self._flows = found is not None and len(found) == _BATCH
        return [self._read(each, asked_at + lease) for each in found or ()]

    def read_pushed(self, pushed: Mapping[str, Any]) -> IncomingMessage:
        """One message as AWS Lambda was given it, with the names of the service's own API. See `PushCodec`."""
        return self._read(pushed, None)

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Settle a batch in one request. See `Backend.settle`."""
        plan = Plan(batch, self._place)
        asked_at = self._clock.monotonic()
        if not plan.entries:
            return plan.outcomes({}, asked_at)
        client = self._clients.calling(timeout_s)
        answer = self._call_with(client, plan.operation, QueueUrl=self._address(), Entries=plan.entries)
        return plan.outcomes(answer, asked_at)

    def classify(self, error: BaseException) -> ErrorClass:
        """See `Backend.classify`."""
        return _errors.classify(error)

    def close(self) -> None:
        """See `Backend.close`."""
        self._polls.close()

    def create(self) -> None:
        """Make the queue, and one for its dead letters. See `Admin.create`."""
        _managing.create(self._call, self._queue, self._options)
        self._url = ""

    def delete(self) -> None:
        """Remove the queue, and the one for its dead letters that `create` made. See `Admin.delete`."""
        with suppress(self._missing()):
            _managing.delete(self._call, self._queue, self._address(), self._settings())
        self._url = ""

    def exists(self) -> bool:
        """See `Admin.exists`."""
        self._url = ""
        try:
            self._address()
        except self._missing():
            return False
        return True

    def purge(self) -> None:
        """Remove every message, the leased ones too; once in 60 s, and not at once. See `Admin.purge`."""
        self._call("PurgeQueue", QueueUrl=self._address())

    def stats(self) -> QueueStats:
        """See `Admin.stats`."""
        return _managing.count(self._settings())

    def start_move(self, *, per_second: int | None = None) -> None:
        """See `Moving.start_move`."""
        _moving.start(self._call, self._settings()["QueueArn"], per_second)

    def moves(self) -> Sequence[Move]:
        """See `Moving.moves`."""
        return [move for _, move in _moving.read(self._call, self._settings()["QueueArn"])]

    def cancel_move(self) -> int | None:
        """See `Moving.cancel_move`."""
        return _moving.cancel(self._call, self._settings()["QueueArn"])

    def _ask(self, client: Any, **asked: Any) -> list[Any]:
        """Receive; of a FIFO queue by an id, under which the service gives the same answer again if it was lost."""
        if not self._fifo:
            return self._call_with(client, "ReceiveMessage", **asked).get("Messages") or []
        most, lease_s, now = asked["MaxNumberOfMessages"], asked["VisibilityTimeout"], self._clock.monotonic()
        ask = self._lost.ask(most, lease_s, now, self._fresh_id)
        try:
            answer = self._call_with(client, "ReceiveMessage", ReceiveRequestAttemptId=ask.attempt_id, **asked)
        except Exception:  # whichever it is, the service may have handed out messages by an answer that is lost
            self._lost.lost(ask, now)
            raise
        return answer.get("Messages") or []

    def _fresh_id(self) -> str:
        return f"qk-{self._clock.token_bytes(16).hex()}"

    def _longest_poll_s(self, lease_s: int) -> int:
        """Half of the lease at most: nobody says when in a poll a message came, so its lease counts from before."""
        return min(math.ceil(self._options.poll.total_seconds()), LONGEST_POLL_S, max(1, lease_s // 2))

    def _url_of(self, queue: str) -> str:
        """The URL of another queue of the same region and account: a dead-letter queue is in no other."""
        url = self._own_url.replace(path=f"/{queue}")
        if self._options.endpoint:  # given as a keyword, it does not stand in the queue's own URL
            url = url.with_option("endpoint", self._options.endpoint)
        if self._options.fair:
            url = url.with_option("fair", "true")
        return url.reveal()

    def _read(self, raw: Mapping[str, Any], lease_until: float | None) -> IncomingMessage:
        message = self._reader.read(raw, self._handle(raw), lease_until)
        source = (raw.get("Attributes") or {}).get(_DIED_ON)
        name = _probing.queue_of(source) if source else None
        return message if name is None else message._replace(died_on=self._url_of(name))

    def _handle(self, raw: Mapping[str, Any]) -> Handle:
        return Handle(self._place, raw["ReceiptHandle"])

    def _unfit(self, message: OutgoingMessage) -> ErrorClass | None:
        """Why the queue cannot take a message, as far as that is known before it is asked."""
        if message.priority:
            return _NO_PRIORITY
        if self._fifo:
            return _NO_DELAY if message.delay_s else _NO_KEY if message.ordering_key is None else None
        if message.delay_s > _LONGEST_DELAY_S:
            return _LONG_DELAY
        if message.dedup_id is not None:
            return _NO_DEDUP
        return _NOT_ORDERED if message.ordering_key is not None and not self._grouped else None

    def _entry(self, message: OutgoingMessage, entry_id: str) -> dict[str, Any]:
        body, attributes = self._writer.write(message)
        entry: dict[str, Any] = {
            "Id": entry_id,
            "MessageBody": body,
            "MessageAttributes": _messages.native_attributes(attributes),
        }
        if message.delay_s:
            entry["DelaySeconds"] = math.ceil(message.delay_s)
        if message.ordering_key is not None:
            entry["MessageGroupId"] = _messages.group_of(message.ordering_key)
        if self._fifo:
            # The engine gives each message one that its tries share; a content hash would swallow equal messages.
            dedup_id = message.dedup_id or self._fresh_id()
            entry["MessageDeduplicationId"] = _messages.dedup_of(dedup_id)
        return entry

    def _give_back(self, found: list[Any]) -> None:
        """Nobody waits for what a poll brought any more; where this fails, the lease brings it back."""
        entries = [
            {"Id": str(index), "ReceiptHandle": each["ReceiptHandle"], "VisibilityTimeout": 0}
            for index, each in enumerate(found)
        ]
        if entries:
            with suppress(Exception):
                self._call("ChangeMessageVisibilityBatch", QueueUrl=self._url, Entries=entries)

    def _settings(self) -> Mapping[str, str]:
        answer = self._call("GetQueueAttributes", QueueUrl=self._address(), AttributeNames=["All"])
        settings: Mapping[str, str] = answer.get("Attributes") or {}
        return settings

    def _ask_dead_letters(self, target: _probing.Redrive) -> tuple[_diagnosing.Asked, _diagnosing.Asked]:
        owner = target.account
        found = self._asked(lambda: self._call("GetQueueUrl", QueueName=target.name, QueueOwnerAWSAccountId=owner))
        if isinstance(found, ErrorClass):
            return found, {}
        url = found["QueueUrl"]
        ask = partial(self._call, "GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
        return found, self._asked(lambda: ask().get("Attributes") or {})

    def _asked(self, settings: Callable[[], Mapping[str, str]]) -> _diagnosing.Asked:
        """The settings, or why they may not be asked for."""
        try:
            return settings()
        except Exception as error:
            what = _errors.classify(error)
            if what.code is not ErrorCode.NOT_FOUND and not _errors.lacks_permission(what):
                raise
            return what

    def _address(self) -> str:
        """The queue's URL at the service, asked for once."""
        if not self._url:
            owner = {"QueueOwnerAWSAccountId": self._account} if self._account else {}
            answer = self._call("GetQueueUrl", QueueName=self._queue, **owner)
            self._url = answer["QueueUrl"]
        return self._url

    def _missing(self) -> type[BaseException]:
        missing: type[BaseException] = self._clients.calling().exceptions.QueueDoesNotExist
        return missing

    def _call(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        return self._call_with(self._clients.calling(), operation, **parameters)

    def _call_with(self, client: Any, operation: str, **parameters: Any) -> Mapping[str, Any]:
        self._calls.count(operation)
        answer: Mapping[str, Any] = getattr(client, METHODS[operation])(**parameters)
        return answer


def _outcome(message_id: str, entry: Mapping[str, Any], told: _entries.Told) -> SendOutcome:
    if told.success is None:
        return Rejected(told.error, message_id) if told.known else Unknown(told.error, message_id)
    of_body, of_attributes = told.success.get("MD5OfMessageBody"), told.success.get("MD5OfMessageAttributes")
    if (of_body and of_body != _messages.md5_of_body(entry["MessageBody"])) or (
        of_attributes and of_attributes != _messages.md5_of_attributes(entry["MessageAttributes"])
    ):
        return Unknown(_DAMAGED, message_id)
    return Accepted(message_id, told.success.get("MessageId"))


def _standard_queue(*, fair: bool) -> Capabilities:
    return Capabilities(
        queues="declared",
        durability="replicated",
        max_message_bytes=MOST_BYTES,
        max_send_batch=_BATCH,
        max_send_batch_bytes=MOST_BYTES,
        pushes="settled",
        max_receive=_BATCH,
        max_settle_batch=_BATCH,
        min_lease_s=_SHORTEST_LEASE_S,
        max_lease_s=float(LONGEST_S),
        max_lease_total_s=float(LONGEST_S),
        extend="absolute",
        fencing="lenient",
        late_ack_safe=True,
        attempts="approximate",
        release_counts=True,
        redelivers_unasked=True,
        max_delay_s=float(_LONGEST_DELAY_S),
        delay_resolution_s=1.0,
        max_retry_delay_s=float(LONGEST_S),
        min_retry_delay_s=1.0,
        retry_delay_resolution_s=1.0,
        delay_with_ordering=fair,
        fair_keys=fair,
        long_poll=True,
        max_polls=_POLLS,
        admin=True,
        redrive=Support.BRIDGED,
        purge=True,
        purges_leased=True,
        depth="approximate",
    )


def _fifo_queue() -> Capabilities:
    return replace(
        _standard_queue(fair=False),
        redelivers_unasked=False,
        max_delay_s=0.0,
        ordering="per_key",
        ordering_key_required=True,
        dedup_window_s=_DEDUP_S,
        dedup_id_required=True,
    )


def _open(opening: Opening) -> SqsBackend:
    return SqsBackend(opening)


SPEC = BackendSpec(open=_open, options=SqsOptions, slot="path", forms=FORMS, places=("endpoint",))
