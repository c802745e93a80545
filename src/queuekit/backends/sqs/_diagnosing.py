# SPDX-License-Identifier: Apache-2.0
"""What of a queue's settings can lose messages, or will surprise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from queuekit.backend import ErrorClass, ErrorCode, Finding, Wanted
from queuekit.backends.sqs._options import FIFO
from queuekit.backends.sqs._probing import Redrive, number, redrive_of, sources_of

Settings: TypeAlias = Mapping[str, str]
Asked: TypeAlias = Settings | ErrorClass
"""A queue's settings, or why they could not be had."""

_DEFAULT_ATTEMPTS = 5
_SLACK = 10
"""Deliveries that a service counts and no handler saw, such as those that a stop gave back."""
_DAY_S = 86_400
_SHORT_S = _DAY_S
_SECONDS = "MessageRetentionPeriod"
_MOST_BYTES = 1 << 20

NO_ADDRESS = Finding(
    severity="loss",
    code="unusable",
    text="the credentials do not allow sqs:GetQueueUrl on the queue, so that nothing can be sent or received",
    remedy="allow sqs:GetQueueUrl on the queue, beside what producers and consumers need",
    loses="whatever is meant for it, as it cannot be used",
)
_NOT_ASKED = Finding(
    severity="note",
    code="settings_denied",
    text="the credentials do not allow sqs:GetQueueAttributes on the queue, so that its limits are taken for those "
    "of a new queue, and the queue of its redrive policy is not found for dead letters",
    remedy="allow sqs:GetQueueAttributes on the queue, or name dead_letter=",
)
_NO_DEAD_LETTERS = Finding(
    severity="note",
    code="no_redrive_policy",
    text="the service itself moves no message aside, however often it is received",
    remedy="give the queue a redrive policy, as a net below dead_letter=",
)


Ask: TypeAlias = Callable[[Redrive], tuple[Asked, Asked]]
"""Asks for the address and for the settings of another queue."""


def diagnose(asked: Asked, queue: str, wanted: Wanted, ask: Ask) -> list[Finding]:
    """Hold a queue's settings against how it is going to be worked.

    Args:
        asked: The queue's settings.
        queue: Its name.
        wanted: How it is going to be worked.
        ask: Asks for the address and the settings of another queue.
    """
    if isinstance(asked, ErrorClass):
        return [_NOT_ASKED]
    found = [*_retention(asked), *_times(asked, wanted), *_key(asked, "the queue")]
    redrive = redrive_of(asked)
    if redrive is None:
        return [*found, _NO_DEAD_LETTERS]
    return [*found, *_limit(redrive, wanted), *_dead_letters(asked, queue, redrive, ask)]


def _retention(settings: Settings) -> Iterator[Finding]:
    kept_s = number(settings, _SECONDS, 4 * _DAY_S)
    yield Finding(
        severity="warning" if kept_s < _SHORT_S else "note",
        code="retention",
        text=f"the service drops a message {_length(kept_s)} after it was sent, handled or not",
        remedy="set MessageRetentionPeriod to 14 days, the longest" if kept_s < 14 * _DAY_S else "",
        loses=f"a message that nobody has handled {_length(kept_s)} after it was sent",
    )


def _times(settings: Settings, wanted: Wanted) -> Iterator[Finding]:
    hidden_s = number(settings, "VisibilityTimeout", 30)
    if wanted.lease_s is not None and hidden_s < wanted.lease_s:
        yield Finding(
            severity="note",
            code="short_visibility_timeout",
            text=f"the queue's VisibilityTimeout is {hidden_s} s and the lease {wanted.lease_s:g} s; queuekit asks "
            "for its own with each receive, but AWS Lambda and other programs do not",
            remedy="set VisibilityTimeout to the lease, or for AWS Lambda to six times the function's timeout",
        )
    delay_s = number(settings, "DelaySeconds", 0)
    if delay_s:
        yield Finding(
            severity="note",
            code="queue_delay",
            text=f"every message without a delay of its own waits for {delay_s} s, copies for retries too",
            remedy="set DelaySeconds to 0, and give a delay to those messages that need one",
        )


def _limit(redrive: Redrive, wanted: Wanted) -> Iterator[Finding]:
    attempts = wanted.max_attempts or _DEFAULT_ATTEMPTS
    if redrive.max_receives <= attempts:
        yield Finding(
            severity="warning",
            code="few_receives",
            text=f"the service moves a message aside after {redrive.max_receives} receives, before its {attempts} "
            "attempts are used up, and without a reason",
            remedy=f"set maxReceiveCount above {attempts + _SLACK}",
        )
    elif redrive.max_receives <= attempts + _SLACK:
        yield Finding(
            severity="note",
            code="few_receives",
            text=f"the service moves a message aside after {redrive.max_receives} receives, and counts those that a "
            "stop gave back",
            remedy=f"set maxReceiveCount above {attempts + _SLACK}, for {attempts} attempts",
        )


def _key(settings: Settings, which: str) -> Iterator[Finding]:
    """KMS refuses in its own name, and a program that lacks one of its permissions can do nothing with the queue."""
    if settings.get("KmsMasterKeyId"):
        yield Finding(
            severity="note",
            code="kms_key",
            text=f"messages of {which} are encrypted with a key of KMS; without its permissions every call fails",
            remedy="allow kms:GenerateDataKey and kms:Decrypt on the key to who sends, kms:Decrypt to who receives",
        )


def _dead_letters(settings: Settings, queue: str, redrive: Redrive, ask: Ask) -> Iterator[Finding]:
    if redrive.name.endswith(FIFO) is not queue.endswith(FIFO):
        yield Finding(
            severity="warning",
            code="dead_letters_of_another_kind",
            text=f"the dead-letter queue {redrive.name} is not of the same kind, FIFO or standard",
            remedy="name one of the same kind in the redrive policy",
        )
    address, asked = ask(redrive)
    if isinstance(address, ErrorClass):
        yield _unreached(redrive, address)
    elif isinstance(asked, ErrorClass):
        yield Finding(
            severity="note",
            code="dead_letters_denied",
            text=f"the credentials do not allow sqs:GetQueueAttributes on the dead-letter queue {redrive.name}, so "
            "that its retention and its limits are not known, and letters are not trimmed to them",
            remedy="allow sqs:GetQueueAttributes on it",
        )
    else:
        yield from _there(settings, queue, redrive, asked)


def _unreached(redrive: Redrive, error: ErrorClass) -> Finding:
    missing = error.code is ErrorCode.NOT_FOUND
    return Finding(
        severity="warning",
        code="dead_letters_missing" if missing else "dead_letters_denied",
        text=f"the dead-letter queue {redrive.name} does not exist"
        if missing
        else f"the credentials do not allow sqs:GetQueueUrl on the dead-letter queue {redrive.name}, so that "
        "queuekit can send no dead letter there, and what is dead comes again until the service moves it",
        remedy="make it" if missing else "allow sqs:GetQueueUrl and sqs:SendMessage on it, or name dead_letter=",
    )


def _there(settings: Settings, queue: str, redrive: Redrive, asked: Settings) -> Iterator[Finding]:
    """What a dead-letter queue's own settings do."""
    here_s, there_s = (number(each, _SECONDS, 4 * _DAY_S) for each in (settings, asked))
    if not queue.endswith(FIFO) and there_s <= here_s and there_s < 14 * _DAY_S:
        yield Finding(
            severity="warning",
            code="dead_letters_kept_briefly",
            text=f"dead letters are kept for {_length(there_s)}, counted from when they were sent first, and the "
            f"queue keeps messages for {_length(here_s)}",
            remedy="set the dead-letter queue's MessageRetentionPeriod to 14 days",
            loses=f"what the service itself moves aside, {_length(there_s)} after it was sent",
        )
    here, there = (number(each, "MaximumMessageSize", _MOST_BYTES) for each in (settings, asked))
    if there < here:
        yield Finding(
            severity="warning",
            code="dead_letters_smaller",
            text=f"the dead-letter queue {redrive.name} takes {there} bytes and the queue {here}, so that a larger "
            "message cannot be stored there, and comes again until the service moves it",
            remedy=f"set its MaximumMessageSize to {here}",
        )
    yield from _allowed(redrive, asked, queue)
    yield from _key(asked, f"the dead-letter queue {redrive.name}")


def _allowed(redrive: Redrive, asked: Settings, queue: str) -> Iterator[Finding]:
    sources = sources_of(asked)
    if sources is None:
        yield Finding(
            severity="note",
            code="dead_letters_of_anybody",
            text=f"the dead-letter queue {redrive.name} has no redrive allow policy, so that any queue of the "
            "account may put its messages there",
            remedy='set its RedriveAllowPolicy to {"redrivePermission": "byQueue", "sourceQueueArns": [...]}',
        )
    elif not any(arn.endswith(f":{queue}") for arn in sources):
        yield Finding(
            severity="warning",
            code="dead_letters_refused",
            text=f"the redrive allow policy of {redrive.name} does not name this queue",
            remedy="add the queue's ARN to the sourceQueueArns of its RedriveAllowPolicy",
        )


def _length(seconds: int) -> str:
    return f"{seconds / _DAY_S:g} d" if seconds >= _DAY_S else f"{seconds / 60:g} min"
