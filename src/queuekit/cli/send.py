# SPDX-License-Identifier: Apache-2.0
"""``queuekit send``: one message, or one for each line of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pydantic_core
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from queuekit import (
    Accepted,
    Duplicate,
    EncodeError,
    Message,
    Producer,
    SendOptions,
    SendOutcome,
    UsageError,
)
from queuekit.cli.choices import BodyKind
from queuekit.cli.showing import put, put_json, say, talk_console

_BATCH = 500
_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One message to send.

    Attributes:
        number: Its line in the file, from 1.
        body: Its bytes.
        size: How many bytes of the file it takes, its end included.
    """

    number: int
    body: bytes
    size: int


class JSONProducer(Producer[bytes]):
    """Sends JSON texts as they stand; `Producer` itself would write them anew."""

    def _build(self) -> None:
        self._codec = _JSONText()
        super()._build()


class _JSONText:
    content_type = "application/json"

    def encode(self, value: bytes) -> bytes:
        check_json(value)
        return value

    def encode_many(self, values: Sequence[bytes]) -> None:
        """Each line by itself, so that a broken one is refused by its number."""

    def decode(self, body: bytes, content_type: str | None) -> bytes:  # noqa: ARG002 - nothing is received here
        return body


def check_json(text: bytes) -> None:
    """Refuse what readers could not parse.

    Raises:
        EncodeError: It is no JSON document, or holds NaN or Infinity.
    """
    try:
        pydantic_core.from_json(text, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        msg = f"not JSON: {error}"
        raise EncodeError(msg) from None


def send_one(
    url: str, text: str | None, *, kind: BodyKind, options: SendOptions, timeout: timedelta, as_json: bool
) -> int:
    """Send one message, from the command line or else from stdin. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, or the body is not what it is said to be.
    """
    body = sys.stdin.buffer.read() if text is None else text.encode("utf-8", "surrogateescape")
    with open_producer(url, kind, timeout) as producer:
        outcome = producer.send_many([Message(_payload(body, kind), **options)]).outcomes[0]
    failed = not isinstance(outcome, (Accepted, Duplicate))
    if as_json:
        put_json(describe(outcome))
    elif not failed:
        put(outcome.message_id)
    if failed:
        say(f"queuekit: not sent: {reason(outcome)}")
    elif isinstance(outcome, Duplicate):
        say("queuekit: a message with this dedup id is in the queue's window already; nothing was added")
    return int(failed)


def send_lines(url: str, file: str, *, options: SendOptions, timeout: timedelta, as_json: bool) -> int:
    """Send one message for each line of a JSONL file, ``-`` for stdin. Returns the exit code.

    A line that fails does not stop the others; what hits the whole queue or its connection does, and the
    rest of the file is then left unsent and said so.

    Raises:
        QueueKitError: The URL is wrong, or the file cannot be read.
    """
    tried = failed = 0
    stopper: SendOutcome | None = None
    producer = open_producer(url, BodyKind.JSON, timeout)
    with producer, _opened(file) as (stream, size), _progress(size) as advance:
        for batch in batches(read_lines(stream)):
            outcomes = producer.send_many([Message(line.body, **options) for line in batch]).outcomes
            failed += sum(_report(*pair, as_json=as_json) for pair in zip(batch, outcomes, strict=True))
            tried += len(batch)
            advance(sum(line.size for line in batch))
            stopper = next((each for each in outcomes if _stops(each)), None)
            if stopper is not None:
                break
    say(f"{tried - failed} of {tried} messages sent to {producer.queue}")
    if stopper is not None:
        say(f"queuekit: stopped after line {tried}, later lines are not sent: {reason(stopper)}")
    return int(failed > 0)


def open_producer(url: str, kind: BodyKind, timeout: timedelta) -> Producer[Any]:
    """A producer for bodies of a kind."""
    if kind is BodyKind.JSON:
        return JSONProducer(url, timeout=timeout)
    return Producer(url, payload=str if kind is BodyKind.TEXT else bytes, timeout=timeout)


def read_lines(stream: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a file, without their ends."""
    for number, raw in enumerate(stream, 1):
        yield Line(number, raw.removesuffix(b"\n").removesuffix(b"\r"), len(raw))


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in groups, bounded by count and by bytes."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += line.size
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def describe(outcome: SendOutcome) -> dict[str, Any]:
    """An outcome as JSON has it."""
    kinds = {"NotAttempted": "not_attempted"}
    name = type(outcome).__name__
    told: dict[str, Any] = {"outcome": kinds.get(name, name.lower()), "message_id": outcome.message_id}
    if not isinstance(outcome, (Accepted, Duplicate)):
        told |= {"code": outcome.error.code.value, "retryable": outcome.error.retryable, "reason": reason(outcome)}
    return told


def reason(outcome: SendOutcome) -> str:
    """Why a message failed, in one line; empty for one that did not."""
    if isinstance(outcome, (Accepted, Duplicate)):
        return ""
    return f"{outcome.error.code.value}: {outcome.error.detail}" if outcome.error.detail else outcome.error.code.value


def _payload(body: bytes, kind: BodyKind) -> str | bytes:
    if kind is not BodyKind.TEXT:
        return body
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"the message is not UTF-8 text: {error.reason} at byte {error.start}; send it with --as bytes"
        raise UsageError(msg) from None


def _report(line: Line, outcome: SendOutcome, *, as_json: bool) -> bool:
    """Tell what became of a line; True when it failed."""
    failed = not isinstance(outcome, (Accepted, Duplicate))
    if as_json:
        put_json({"line": line.number, **describe(outcome)})
    if failed:
        say(f"line {line.number}: {reason(outcome)}")
    return failed


def _stops(outcome: SendOutcome) -> bool:
    """Whether what hit this message would hit every other one too."""
    return not isinstance(outcome, (Accepted, Duplicate)) and outcome.error.scope in {"queue", "connection"}


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        yield sys.stdin.buffer, None
        return
    with _open(Path(file)) as stream:
        yield stream, os.fstat(stream.fileno()).st_size


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        msg = f"{str(path)!r} cannot be read: {error.strerror}"
        raise UsageError(msg) from None


@contextmanager
def _progress(size: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, by bytes of the file; nothing where stderr is no terminal."""
    console = talk_console()
    columns = (TextColumn("sending"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=size)
        yield lambda count: progress.advance(task, count)
