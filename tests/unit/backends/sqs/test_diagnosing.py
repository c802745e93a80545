# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of a queue's settings."""

import json
from typing import Any

import pytest

from queuekit.backend import ErrorClass, ErrorCode, Wanted
from queuekit.backends.sqs._diagnosing import Asked, diagnose

_DAY = 86_400


def queue(receives: int | None = None, dead: str = "orders-dead", **settings: int) -> dict[str, str]:
    made = {"MessageRetentionPeriod": f"{14 * _DAY}", "VisibilityTimeout": "60", "DelaySeconds": "0"}
    made |= {name: f"{value}" for name, value in settings.items()}
    if receives is not None:
        arn = f"arn:aws:sqs:eu-west-1:123456789012:{dead}"
        made["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
    return made


def found(
    asked: Asked, *, name: str = "orders", dead: Asked | None = None, max_attempts: int | None = None, **wanted: Any
) -> dict[str, str]:
    there = queue() if dead is None else dead
    address, settings = (there, {}) if isinstance(there, ErrorClass) else ({}, there)
    if not isinstance(settings, ErrorClass) and "RedriveAllowPolicy" not in settings:
        arn = f"arn:aws:sqs:eu-west-1:123456789012:{name}"
        allowed = json.dumps({"redrivePermission": "byQueue", "sourceQueueArns": [arn]})
        settings = {**settings, "RedriveAllowPolicy": allowed}
    findings = diagnose(asked, name, Wanted(max_attempts=max_attempts, **wanted), lambda _: (address, settings))
    return {each.code: each.severity for each in findings}


def refused(code: ErrorCode) -> ErrorClass:
    return ErrorClass(code)


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        (queue(100), {}, {"retention": "note"}),
        (queue(), {}, {"retention": "note", "no_redrive_policy": "note"}),
        (queue(100, MessageRetentionPeriod=3600), {}, {"retention": "warning"}),
        (queue(100, DelaySeconds=5), {}, {"retention": "note", "queue_delay": "note"}),
        (queue(100), {"lease_s": 120.0}, {"retention": "note", "short_visibility_timeout": "note"}),
        (queue(5), {"max_attempts": 5}, {"retention": "note", "few_receives": "warning"}),
        (queue(12), {"max_attempts": 5}, {"retention": "note", "few_receives": "note"}),
        (queue(100, dead="x.fifo"), {}, {"retention": "note", "dead_letters_of_another_kind": "warning"}),
        (
            queue(100),
            {"dead": refused(ErrorCode.NOT_FOUND)},
            {"retention": "note", "dead_letters_missing": "warning"},
        ),
        (
            queue(100),
            {"dead": refused(ErrorCode.ACCESS_DENIED)},
            {"retention": "note", "dead_letters_denied": "warning"},
        ),
        (queue(100) | {"KmsMasterKeyId": "alias/key"}, {}, {"retention": "note", "kms_key": "note"}),
        (
            queue(100),
            {"dead": queue() | {"RedriveAllowPolicy": '{"redrivePermission": "allowAll"}'}},
            {"retention": "note", "dead_letters_of_anybody": "note"},
        ),
        (
            queue(100),
            {"dead": queue() | {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}'}},
            {"retention": "note", "dead_letters_refused": "warning"},
        ),
        (
            queue(100),
            {"dead": queue(MaximumMessageSize=1024)},
            {"retention": "note", "dead_letters_smaller": "warning"},
        ),
        (
            queue(100),
            {"dead": queue(MessageRetentionPeriod=_DAY)},
            {"retention": "note", "dead_letters_kept_briefly": "warning"},
        ),
    ],
)
def test_each_setting_is_held_against_how_the_queue_is_worked(
    settings: dict[str, str], arguments: dict[str, Any], expected: dict[str, str]
) -> None:
    assert found(settings, **arguments) == expected


def test_what_may_not_be_asked_is_a_note() -> None:
    assert found(refused(ErrorCode.ACCESS_DENIED)) == {"settings_denied": "note"}


def test_a_fifo_queue_s_dead_letters_begin_their_time_anew() -> None:
    there = queue(MessageRetentionPeriod=_DAY)
    assert found(queue(100, dead="x.fifo"), name="orders.fifo", dead=there) == {"retention": "note"}


def test_what_is_not_allowed_is_named_with_what_then_fails() -> None:
    (note,) = diagnose(refused(ErrorCode.ACCESS_DENIED), "orders", Wanted(), lambda _: ({}, {}))
    assert "sqs:GetQueueAttributes" in note.text
    assert "limits" in note.text
    denied = refused(ErrorCode.ACCESS_DENIED)
    (told,) = [
        each for each in diagnose(queue(100), "orders", Wanted(), lambda _: ({}, denied)) if "den" in each.code
    ]
    assert (told.severity, "sqs:GetQueueAttributes" in told.text) == ("note", True)
