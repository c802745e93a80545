# SPDX-License-Identifier: Apache-2.0
"""Frames between a worker and its child processes: a JSON header, then the bodies as they are.

No pickle: a message's bytes are never anything but bytes on either side.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from queuekit._portable.letters import Cause, ChildError, describe, render
from queuekit._portable.retry import Verdict
from queuekit.backend import Action, IncomingMessage

_LENGTH = struct.Struct(">I")


def pack(header: dict[str, Any], bodies: Sequence[bytes] = ()) -> bytes:
    """One frame: a header of plain values, and bodies."""
    text = json.dumps(header | {"sizes": [len(body) for body in bodies]}).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *bodies))


def unpack(frame: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header and the bodies of one frame."""
    (length,) = _LENGTH.unpack_from(frame)
    at = _LENGTH.size + length
    header: dict[str, Any] = json.loads(frame[_LENGTH.size : at])
    bodies: list[bytes] = []
    for size in header["sizes"]:
        bodies.append(frame[at : at + size])
        at += size
    return header, bodies


def pack_jobs(queue: int, jobs: Sequence[tuple[int, IncomingMessage]]) -> bytes:
    """Deliveries on their way to a child; their handles stay with the parent."""
    rows = [
        (
            job_id,
            message.message_id,
            dict(message.attributes),
            dict(message.metadata),
            message.attempt,
            message.enqueued_at,
            message.ordering_key,
            message.priority,
        )
        for job_id, message in jobs
    ]
    return pack({"op": "jobs", "queue": queue, "jobs": rows}, [message.body for _, message in jobs])


def unpack_jobs(header: Mapping[str, Any], bodies: Sequence[bytes]) -> list[tuple[int, IncomingMessage]]:
    """The deliveries of a frame that `pack_jobs` made."""
    jobs: list[tuple[int, IncomingMessage]] = []
    for row, body in zip(header["jobs"], bodies, strict=True):
        job_id, message_id, attributes, metadata, attempt, enqueued_at, key, priority = row
        message = IncomingMessage(
            None, message_id, body, attributes, metadata, attempt, enqueued_at, None, key, priority
        )
        jobs.append((job_id, message))
    return jobs


def verdict_row(job_id: int, verdict: Verdict) -> list[Any]:
    """A verdict on its way to the parent."""
    cause, error = verdict.cause, verdict.cause.error if verdict.cause else None
    return [
        job_id,
        verdict.action.value,
        verdict.delay_s,
        verdict.demanded,
        cause.reason if cause else None,
        describe(error) if error else None,
        # A retry shows no traceback anywhere, and rendering one is slow.
        render(error) if error and verdict.action is Action.DEAD else "",
        verdict.held,
    ]


def read_verdict(row: Sequence[Any]) -> tuple[int, Verdict]:
    """The verdict of a row that `verdict_row` made."""
    job_id, action, delay_s, demanded, reason, described, rendered, held = row
    error = ChildError(described, rendered) if described is not None else None
    cause = Cause(reason, error) if reason is not None else None
    return job_id, Verdict(Action(action), delay_s, cause, demanded, held)
