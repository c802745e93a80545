# SPDX-License-Identifier: Apache-2.0
"""``queuekit dead``: look at dead letters, and send them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from queuekit import DeadLetters, DeadMessage, PurgeReport, Rate, RedriveReport
from queuekit.backend import Move
from queuekit.cli.choosing import Chosen
from queuekit.cli.queues import body_of
from queuekit.cli.showing import confirmed, put, put_block, put_json, put_table, redact, say


def list_dead(url: str, *, chosen: Chosen, limit: int, as_json: bool) -> int:
    """List dead letters, the oldest first. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with DeadLetters(url) as dead:
        letters = list(islice(filter(chosen.test(), dead.letters()), limit + 1))
        queue = dead.queue
    shown, more = letters[:limit], len(letters) > limit
    if as_json:
        for letter in shown:
            put_json(describe(letter))
    elif shown:
        rows = [
            (each.message_id, str(each.attempts), _when(each.last), each.type or "", _why(each)) for each in shown
        ]
        put_table(("id", "attempts", "died", "type", "reason"), rows)
    if more:
        say(f"there are more; see them with --limit {2 * limit}")
    elif not shown:
        say(f"{queue} is empty" if chosen.all else f"{queue} has no such dead letter")
    return 0


def show_dead(url: str, message_id: str, *, as_json: bool) -> int:
    """Show all of one dead letter. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with DeadLetters(url) as dead:
        letter = dead.show(message_id)
        queue = dead.queue
    if letter is None:
        say(f"queuekit: {queue} has no dead letter {message_id!r}")
        return 1
    if as_json:
        put_json(describe(letter) | {"traceback": letter.traceback} | body_of(letter.body))
        return 0
    for name, value in describe(letter).items():
        if name != "attributes" and value not in {None, ""}:
            put(f"{name}: {value}")
    for name, text in letter.attributes.items():
        put(f"attribute {name}: {text}")
    if letter.traceback:
        put_block("traceback", letter.traceback.rstrip("\n"))
    put_block(f"body ({len(letter.body)} bytes)", letter.body.decode("utf-8", "backslashreplace"))
    return 0


def redrive(
    url: str,
    message_ids: Sequence[str],
    *,
    chosen: Chosen,
    limit: int | None,
    rate: tuple[int, timedelta] | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Send dead letters back to their queue; all of them where no id is named. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with DeadLetters(url) as dead:
        report = dead.redrive(
            message_ids=list(message_ids) or None,
            where=chosen.test(),
            limit=limit,
            rate=None if rate is None else Rate(rate[0], per=rate[1]),
            dry_run=dry_run,
        )
    missing = sorted(set(message_ids) - _seen(report)) if limit is None and chosen.all else []
    if as_json:
        put_json(
            {
                "dry_run": dry_run,
                "moved": list(report.moved),
                "skipped": list(report.skipped),
                "failed": [{"message_id": each, "reason": redact(why)} for each, why in report.failed],
                "missing": missing,
            }
        )
    else:
        _tell(report, missing, dry_run=dry_run)
    return int(bool(report.failed or missing))


def purge(
    url: str,
    message_ids: Sequence[str],
    *,
    chosen: Chosen,
    limit: int | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove dead letters for good; all of them where nothing is named. Returns the exit code.

    Raises:
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    with DeadLetters(url) as dead:
        ids = list(message_ids) or None
        meant = dead.purge(message_ids=ids, where=chosen.test(), limit=limit, dry_run=True).removed
        missing = sorted(set(message_ids) - set(meant)) if limit is None and chosen.all else []
        if meant and not dry_run and not yes and not confirmed(f"remove {len(meant)} from {dead.queue} for good?"):
            return 1
        # Those that were counted, and none that came in since.
        report = PurgeReport(meant) if dry_run or not meant else dead.purge(message_ids=meant)
    if as_json:
        answer = {"removed": list(report.removed), "skipped": list(report.skipped), "missing": missing}
        put_json({"dry_run": dry_run} | answer)
    else:
        for message_id in report.removed:
            put(message_id)
        _tell_left(report.skipped, missing)
        say(f"{len(report.removed)} {'would be' if dry_run else 'were'} removed")
    return int(bool(missing))


def start_move(url: str, *, rate: tuple[int, timedelta] | None, as_json: bool) -> int:
    """Have the service begin a task that moves letters back. Returns the exit code.

    Raises:
        UnsupportedError: The service has no such tasks, or cannot keep to the rate.
        QueueKitError: The URL is wrong, the service could not be asked, or another task runs.
    """
    with DeadLetters(url) as dead:
        dead.start_move(rate=None if rate is None else Rate(rate[0], per=rate[1]))
        queue = dead.queue
    if as_json:
        put_json({"queue": queue, "started": True})
    else:
        say(f"the service moves back what it moved to {queue}; see how far it is with: queuekit dead move ls")
    return 0


def list_moves(url: str, *, as_json: bool) -> int:
    """Show the service's latest tasks. Returns the exit code. Raises as `start_move` does."""
    with DeadLetters(url) as dead:
        moves, queue = dead.moves(), dead.queue
    if as_json:
        for each in moves:
            put_json(asdict(each) | {"started_at": _began(each)})
    elif moves:
        put_table(("status", "moved", "total", "per second", "started", "reason"), [_row(each) for each in moves])
    else:
        say(f"the service has moved nothing back from {queue} of late")
    return 0


def cancel_move(url: str, *, as_json: bool) -> int:
    """Stop the service's task. Returns the exit code, 1 where none runs. Raises as `start_move` does."""
    with DeadLetters(url) as dead:
        moved, queue = dead.cancel_move(), dead.queue
    if as_json:
        put_json({"queue": queue, "cancelled": moved is not None, "moved": moved})
    else:
        say(f"no task moves anything back from {queue}" if moved is None else f"stopped; about {moved} are back")
    return int(moved is None)


def _row(move: Move) -> tuple[str, ...]:
    numbers = ("" if each is None else str(each) for each in (move.moved, move.total, move.per_second))
    return (move.status, *numbers, _began(move) or "", move.reason)


def _began(move: Move) -> str | None:
    began = move.started_at
    return None if began is None else datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds")


def describe(letter: DeadMessage) -> dict[str, Any]:
    """A dead letter as JSON has it, without its body and traceback."""
    return {
        "message_id": letter.message_id,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "first": letter.first.isoformat() if letter.first else None,
        "last": letter.last.isoformat() if letter.last else None,
        "source": redact(letter.source) if letter.source else None,
        "worker": letter.worker,
        "type": letter.type,
        "ordering_key": letter.ordering_key,
        "attributes": dict(letter.attributes),
        "trimmed": " ".join(letter.trimmed),
    }


def _seen(report: RedriveReport) -> set[str]:
    return {*report.moved, *report.skipped, *(each for each, _ in report.failed)}


def _tell(report: RedriveReport, missing: Sequence[str], *, dry_run: bool) -> None:
    for message_id in report.moved:
        put(message_id)
    for message_id, why in report.failed:
        say(f"{message_id}: {redact(why)}")
    _tell_left(report.skipped, missing)
    say(f"{len(report.moved)} {'would be' if dry_run else 'were'} sent back")


def _tell_left(skipped: Sequence[str], missing: Sequence[str]) -> None:
    for message_id in missing:
        say(f"{message_id}: no such dead letter")
    for message_id in skipped:
        say(f"{message_id}: somebody else took it meanwhile")


def _when(instant: datetime | None) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S") if instant else ""


def _why(letter: DeadMessage) -> str:
    return f"{letter.reason} ({letter.error})" if letter.error else letter.reason
