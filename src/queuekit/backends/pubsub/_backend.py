# SPDX-License-Identifier: Apache-2.0
"""The Pub/Sub backend itself: each method is one request, or a pull and the change of its leases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from queuekit.backend import (
    Accepted,
    BackendSpec,
    Capabilities,
    ErrorClass,
    ErrorCode,
    Finding,
    HttpAuth,
    HttpRequest,
    IncomingMessage,
    NotAttempted,
    Opening,
    OutgoingMessage,
    QueueStats,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    Wanted,
)
from queuekit.backends._counting import Calls
from queuekit.backends._google.errors import UnlessStatus, status_of
from queuekit.backends._per_process import PerProcess
from queuekit.backends.pubsub import _diagnosing, _errors, _managing, _messages, _probing
from queuekit.backends.pubsub._clients import SCOPE, Made, clients_of
from queuekit.backends.pubsub._errors import DamagedAnswerError
from queuekit.backends.pubsub._leasing import Leases
from queuekit.backends.pubsub._options import FORMS, PubSubOptions, names_of, place_of
from queuekit.backends.pubsub._pulling import Pulls, answer_of
from queuekit.backends.pubsub._settling import LONGEST_S, Handle, Plan

MOST_BYTES = 10_000_000
"""Of a request that publishes; a message alone is one too."""

_BATCH = 1000
_POLLS = 4
_FRAMING = 4
"""Bytes around the topic's name in a request."""
_GRACE_S = 1.05
"""How much earlier than it has to the service answers a pull that brought nothing."""


def _unfit(detail: str, code: ErrorCode = ErrorCode.UNSUPPORTED) -> ErrorClass:
    return ErrorClass(code, sent="no", detail=detail)


_NO_DELAY = _unfit("Pub/Sub keeps no delay of a send; delay_via= names a queue that does")
_NO_DEDUP = _unfit("Pub/Sub knows no dedup ids; the handler's idempotency= keeps what was done")
_NOT_ORDERED = _unfit(
    "the subscription is not ordered; create it with ordering=true, or send without an ordering key"
)
_NO_PRIORITY = _unfit("Pub/Sub has no priorities; ?lanes= makes them of several topics")
_NO_ROOM = _unfit("the attributes of the message have no room on Pub/Sub", ErrorCode.TOO_LARGE)
_BEHIND = _unfit(
    "an earlier message of this ordering key was refused; call resume_key(KEY), then send what failed in order",
    ErrorCode.REFUSED,
)
_REFUSED = _unfit(
    "the service refused the messages of this call, as one of them is not as it wants it; see the cause",
    ErrorCode.INVALID_MESSAGE,
)


class PubSubBackend:
    """One topic, and one subscription of it.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, opening: Opening) -> None:
        self._options: PubSubOptions = opening.options
        self._names = names_of(opening)
        self._own_url = opening.url
        self._clock = opening.clock
        self._place = place_of(opening)
        place = self._place
        self._clients = opening.clients.get(("pubsub", place), lambda: clients_of(place), PerProcess.close)
        self._calls = Calls()
        self._pulls = Pulls(opening.clock)
        self._writer = _messages.Writer()
        self._leases = Leases(
            opening.clock,
            change=lambda ack_ids, seconds: self._change(ack_ids, seconds, place.answer_s),
            deadline=lambda: self._settings().ack_deadline_s,
        )
        self._ordered = self._options.ordering
        self._capabilities = replace(
            _queue(self._names.topic, self._options),
            dead_letter_queue=self._url_of(self._names.dead_topic) if self._options.dead_letter else "",
        )

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    def api_calls(self) -> Mapping[str, int]:
        """How often each operation of the service was asked for since this backend was opened."""
        return self._calls.read()

    def probe(self) -> Capabilities:
        """Ask for the subscription's settings, and who else reads the topic. See `Backend.probe`.

        Raises:
            Exception: The SDK's own, for another reason than a permission that is missing; `OtherTopicError`.
        """
        settings, readers = None, None
        with UnlessStatus("PERMISSION_DENIED"):
            settings = self._settings()
        if settings is None:
            return replace(self._capabilities, assumed=_probing.ASSUMED)
        _probing.check_topic(settings, self._names)
        self._leases.learn(settings.ack_deadline_s)
        self._ordered = settings.ordering
        can = _probing.refined(self._capabilities, settings, self._url_of)
        with UnlessStatus("PERMISSION_DENIED"):
            readers = self._call("ListTopicSubscriptions", {"topic": self._names.topic})
        if readers is None:
            return replace(can, assumed=_probing.ASSUMED_ALONE)
        return _probing.with_readers(can, readers, self._names)

    def diagnose(self, wanted: Wanted) -> Sequence[Finding]:
        """See `Diagnosable.diagnose`."""
        return _diagnosing.diagnose(self._call, self._names, wanted)

    def size(self, message: OutgoingMessage) -> int:
        """See `Backend.size`."""
        return self._writer.size(message)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        """Publish a batch in one request. See `Backend.send`."""
        made = self._clients.get()
        request = made.types.PublishRequest.pb()(topic=self._names.topic)
        unfit: list[ErrorClass | None] = []
        for message in batch:
            behind = message.ordering_key is not None and unfit and unfit[-1] is not None
            unfit.append(_BEHIND if behind else self._add(request.messages, message))
        told = iter(self._publish(made, request, timeout_s) if request.messages else ())
        return [
            _outcome(message.message_id, next(told) if error is None else error)
            for message, error in zip(batch, unfit, strict=True)
        ]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        """Pull up to a thousand messages, and lease them for whole seconds, rounded up. See `Backend.receive`."""
        made, subscription = self._clients.get(), self._names.subscription
        most = min(max_messages, _BATCH)
        pull = made.pull(subscription, most, min(wait_s, self._options.poll.total_seconds()) + _GRACE_S)

        def begin() -> Any:
            self._calls.count("Pull")
            return pull()

        call, begun_at = self._pulls.run(most, begin, lambda ended: self._give_back(made, ended))
        if call is None:
            return ()
        answer = answer_of(call)
        if answer is None:
            self._ask_back(made)
        found = made.messages(answer)
        if not found:
            return ()
        leased = self._leases.make([each.ack_id for each in found], math.ceil(lease_s), begun_at)
        messages = _messages.read(found, lambda ack_id: Handle(subscription, ack_id), leased.until)
        if not leased.sooner:
            return messages
        ends = (leased.sooner.get(each.ack_id, leased.until) for each in found)
        return [message._replace(lease_until=end) for message, end in zip(messages, ends, strict=True)]

    def read_pushed(self, pushed: Mapping[str, Any]) -> IncomingMessage:
        """One message as the service pushes it, wrapped, or put into that form. See `PushCodec`.

        Its handle settles nothing: what is pushed is settled by the answer to the request.
        """
        return _messages.read_pushed(pushed, Handle(self._names.subscription, ""))

    def refusal(self, message: OutgoingMessage) -> ErrorClass | None:
        """See `Foreseeing.refusal`."""
        error = self._unfit(message)
        if error is None and len(self._writer.attributes(message)) > _messages.MOST_ATTRIBUTES:
            return _NO_ROOM
        return error

    @property
    def http_auth(self) -> HttpAuth:
        """See `HttpPublishable.http_auth`."""
        return HttpAuth("oauth", SCOPE) if self._place.secure else HttpAuth("none")

    def as_http(self, message: OutgoingMessage) -> HttpRequest:
        """The request that publishes a message by the service's REST interface. See `HttpPublishable.as_http`."""
        scheme = "https" if self._place.secure else "http"
        host = self._place.address.removesuffix(":443") if self._place.secure else self._place.address
        body = _messages.as_json(message, self._writer.attributes(message))
        # A name may hold what means something else in a path.
        path = f"/v1/{quote(self._names.topic, safe='/')}:publish"
        return HttpRequest(f"{scheme}://{host}{path}", body, {"Content-Type": "application/json"})

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        """Settle a batch in one request, or more where it is longer than one can be. See `Backend.settle`."""
        plan = Plan(batch, self._names.subscription)
        calls = plan.calls()
        for ack_ids in calls:
            asked_at = self._clock.monotonic()
            try:
                self._change(ack_ids, None if plan.acks else plan.seconds, timeout_s)
            except Exception as error:  # whatever it is, of other calls more is known
                named = _errors.of_ack_ids(error)
                if named:
                    plan.done(ack_ids, named, asked_at)
                    continue
                if len(calls) == 1:
                    raise
                plan.failed(ack_ids, replace(_errors.classify(error), raw=error))
            else:
                plan.done(ack_ids, {}, asked_at)
        return plan.outcomes()

    def classify(self, error: BaseException) -> ErrorClass:
        """See `Backend.classify`."""
        return _errors.classify(error)

    def interrupt(self) -> None:
        """See `Interruptible.interrupt`."""
        self._pulls.interrupt()

    def close(self) -> None:
        """See `Backend.close`."""
        self._pulls.close()

    def create(self) -> None:
        """Make the topic and the subscription, and both for dead letters. See `Admin.create`."""
        _managing.create(self._call, self._names, self._options)

    def delete(self) -> None:
        """Remove the subscription, and the topic when nobody else reads it. See `Admin.delete`.

        Both for dead letters go with them, but for those that ``dead_letter=`` names.
        """
        _managing.delete(self._call, self._names, self._options)

    def exists(self) -> bool:
        """Whether both the topic and the subscription are there. See `Admin.exists`."""
        with UnlessStatus("NOT_FOUND"):
            self._call("GetTopic", {"topic": self._names.topic})
            self._settings()
            return True
        return False

    def purge(self) -> None:
        """Skip what was sent until now, the leased ones too. See `Admin.purge`."""
        now = self._clock.time()
        stamp = {"seconds": int(now), "nanos": int(now % 1 * 1e9)}
        self._call("Seek", {"subscription": self._names.subscription, "time": stamp})

    def stats(self) -> QueueStats:
        """Nothing: only Google's Monitoring counts messages. See `Admin.stats`."""
        return QueueStats()

    def _give_back(self, made: Made, ended: Any) -> Any:
        """Nobody waits for what a pull brought any more; the call that gives it back, or None where it is nothing."""
        ack_ids = [each.ack_id for each in made.messages(answer_of(ended))]
        if not ack_ids:
            return None
        self._calls.count("ModifyAckDeadline")
        return made.give_back(self._names.subscription, ack_ids, self._place.answer_s)

    def _ask_back(self, made: Made) -> None:
        """After a pull without an answer, ask for one: a service with no messages gives it, and a dead line does not.

        Raises:
            Exception: Google's own, where there was none.
        """
        nothing = made.types.AcknowledgeRequest(subscription=self._names.subscription)
        try:
            self._call_with(made.subscriber.acknowledge, "Acknowledge", nothing, self._place.answer_s)
        except Exception as error:  # a refusal is an answer too
            if _errors.classify(error).retryable:
                self._clients.renew(made)
                raise

    def _publish(self, made: Any, request: Any, timeout_s: float) -> Sequence[str | ErrorClass]:
        """The service's ids of a request's messages, or why it refused them: it takes all, or none.

        Raises:
            DamagedAnswerError: There is not one id for each.
        """
        wrapped = made.types.PublishRequest.wrap(request)
        try:
            answer = self._call_with(made.publisher.publish, "Publish", wrapped, timeout_s)
        except Exception as error:  # the status tells, not the class
            if status_of(error) != "INVALID_ARGUMENT":
                raise
            return [replace(_REFUSED, raw=error)] * len(request.messages)
        ids: Sequence[str] = made.types.PublishResponse.pb(answer).message_ids
        if len(ids) != len(request.messages):
            msg = f"the service answered {len(ids)} ids for {len(request.messages)} messages"
            raise DamagedAnswerError(msg)
        return ids

    def _add(self, messages: Any, message: OutgoingMessage) -> ErrorClass | None:
        """Put a message into a request, or say why the service would not take it."""
        error = self._unfit(message)
        if error is not None:
            return error
        attributes = self._writer.attributes(message)
        if len(attributes) > _messages.MOST_ATTRIBUTES:
            return _NO_ROOM
        # Field by field, which takes a quarter of the time that the constructor does.
        added = messages.add()
        added.data = message.body
        for name, text in attributes.items():
            added.attributes[name] = text
        if message.ordering_key is not None:
            added.ordering_key = message.ordering_key
        return None

    def _unfit(self, message: OutgoingMessage) -> ErrorClass | None:
        if message.delay_s:
            return _NO_DELAY
        if message.priority:
            return _NO_PRIORITY
        if message.dedup_id is not None:
            return _NO_DEDUP
        if message.ordering_key is not None and not self._ordered:
            return _NOT_ORDERED
        return _messages.unfit(message)

    def _change(self, ack_ids: Sequence[str], seconds: int | None, timeout_s: float) -> None:
        """Acknowledge leases, or let them end in so many seconds."""
        made = self._clients.get()
        if seconds is None:
            acks = made.types.AcknowledgeRequest.pb()(subscription=self._names.subscription, ack_ids=ack_ids)
            wrapped = made.types.AcknowledgeRequest.wrap(acks)
            self._call_with(made.subscriber.acknowledge, "Acknowledge", wrapped, timeout_s)
            return
        changes = made.types.ModifyAckDeadlineRequest.pb()(
            subscription=self._names.subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds
        )
        wrapped = made.types.ModifyAckDeadlineRequest.wrap(changes)
        self._call_with(made.subscriber.modify_ack_deadline, "ModifyAckDeadline", wrapped, timeout_s)

    def _settings(self) -> _probing.Settings:
        return _probing.settings_of(self._call("GetSubscription", {"subscription": self._names.subscription}))

    def _url_of(self, topic: str) -> str:
        """The URL of another topic, from its whole name."""
        _, project, _, name = topic.split("/")
        options = {
            name: text for name, text in self._own_url.options.items() if name in {"endpoint", "answer_timeout"}
        }
        host = replace(self._own_url.hosts[0], name=project)
        return self._own_url.replace(hosts=(host,), path=f"/{name}", options=options).reveal()

    def _call(self, operation: str, request: Mapping[str, Any]) -> Any:
        """Make a call about the queue itself. What it answers comes without the wrapper of Google's client."""
        made = self._clients.get()
        client, method = _managing.METHODS[operation]
        answer = self._call_with(getattr(getattr(made, client), method), operation, request, self._place.answer_s)
        if operation == "ListTopicSubscriptions":
            return list(answer)
        wrapped = hasattr(type(answer), "pb")
        return type(answer).pb(answer) if wrapped else answer

    def _call_with(self, method: Any, operation: str, request: Any, timeout_s: float) -> Any:
        self._calls.count(operation)
        return method(request=request, retry=None, timeout=max(0.001, min(timeout_s, self._place.answer_s)))


def _outcome(message_id: str, told: str | ErrorClass) -> SendOutcome:
    if told is _BEHIND:
        return NotAttempted(_BEHIND, message_id)
    return Accepted(message_id, told) if isinstance(told, str) else Rejected(told, message_id)


def _queue(topic: str, options: PubSubOptions) -> Capabilities:
    """What the URL tells: the subscription is taken for one that `create` made with the same options."""
    most = MOST_BYTES - len(topic) - _FRAMING
    return Capabilities(
        queues="declared",
        copies="fanout",
        durability="replicated",
        max_message_bytes=most,
        max_send_batch=_BATCH,
        max_send_batch_bytes=most,
        atomic_send=True,
        one_key_per_send=True,
        max_receive=_BATCH,
        pushes="answered",
        max_settle_batch=_BATCH,
        min_lease_s=1.0,
        max_lease_s=float(LONGEST_S),
        extend="absolute",
        fencing="strict" if options.exactly_once else "lenient",
        late_ack_safe=True,
        ack_confirmed=options.exactly_once,
        attempts="approximate" if _managing.deliveries_of(options) else "none",
        release_counts=True,
        redelivers_unasked=not options.exactly_once,
        max_retry_delay_s=float(LONGEST_S),
        min_retry_delay_s=1.0,
        retry_delay_resolution_s=1.0,
        ordering="per_key" if options.ordering else "none",
        fanout=True,
        long_poll=True,
        max_polls=_POLLS,
        wait_at_least_s=1.0,
        admin=True,
        purge=True,
        purges_leased=True,
    )


def _open(opening: Opening) -> PubSubBackend:
    return PubSubBackend(opening)


SPEC = BackendSpec(open=_open, options=PubSubOptions, slot="path", forms=FORMS)
