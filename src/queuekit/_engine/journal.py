# SPDX-License-Identifier: Apache-2.0
"""Counts and logs what happens, under a closed set of names."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping

logger = logging.getLogger("queuekit")

ACTIONS: Mapping[str, int] = {
    "connection.plaintext": logging.WARNING,
    "copy.failed": logging.WARNING,
    "delay.forwarded": logging.DEBUG,
    "delay.not_forwarded": logging.WARNING,
    "delay.stranger": logging.WARNING,
    "delivery.hopped": logging.DEBUG,
    "delivery.expired": logging.INFO,
    "delivery.released": logging.DEBUG,
    "dead_letter.discarded": logging.WARNING,
    "dead_letter.failed": logging.WARNING,
    "dead_letter.missing": logging.WARNING,
    "idempotency.busy": logging.DEBUG,
    "idempotency.lost": logging.WARNING,
    "idempotency.mismatch": logging.WARNING,
    "idempotency.skipped": logging.INFO,
    "idempotency.unavailable": logging.WARNING,
    "idempotency.unrecorded": logging.WARNING,
    "consumer.closed": logging.DEBUG,
    "flow.stalled": logging.WARNING,
    "lease.acked_late": logging.INFO,
    "lease.at_limit": logging.WARNING,
    "lease.lost": logging.WARNING,
    "producer.closed": logging.DEBUG,
    "push.closed": logging.INFO,
    "push.deadline_short": logging.WARNING,
    "push.failed": logging.ERROR,
    "push.left": logging.WARNING,
    "push.out_of_time": logging.WARNING,
    "push.refused": logging.WARNING,
    "push.started": logging.INFO,
    "push.stopped": logging.INFO,
    "push.unprobed": logging.WARNING,
    "push.waits_refused": logging.WARNING,
    "queue.recreated": logging.WARNING,
    "receive.failed": logging.WARNING,
    "receive.resumed": logging.INFO,
    "retry.cut": logging.WARNING,
    "retry.shortened": logging.WARNING,
    "send.unflushed": logging.WARNING,
    "settle.failed": logging.WARNING,
    "settle.unknown": logging.WARNING,
    "worker.child_lost": logging.ERROR,
    "worker.drain_short": logging.WARNING,
    "worker.draining": logging.INFO,
    "worker.hung": logging.ERROR,
    "worker.loop_blocked": logging.WARNING,
    "worker.native_limit": logging.WARNING,
    "worker.paused": logging.INFO,
    "worker.resumed": logging.INFO,
    "worker.stalled": logging.ERROR,
    "worker.started": logging.INFO,
    "worker.stopped": logging.INFO,
    "delivery.dead": logging.WARNING,
    "batch.forgotten": logging.WARNING,
    "key.held": logging.WARNING,
    "listener.failed": logging.ERROR,
    "middleware.failed": logging.ERROR,
    "delivery.retried": logging.INFO,
}
"""Every action that queuekit logs, with its level."""


class Journal:
    """Counts actions, and logs them with the queue's redacted URL. Never a body, handle or attribute.

    Args:
        queue: The queue's redacted URL.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def note(
        self,
        action: str,
        detail: str = "",
        *,
        count: int = 1,
        error: BaseException | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> None:
        """Count an action, and log one line for it.

        Args:
            action: One of `ACTIONS`.
            detail: What a reader of the log should know.
            count: How many deliveries it concerns.
            error: An exception whose traceback belongs to the line.
            totals: What was counted in all, where something ends; zeros are left out of the line.
        """
        self.count(action, count)
        extra: dict[str, object] = {"action": action, "queue": self._queue, "count": count}
        if totals is not None:
            extra["totals"] = dict(totals)
            detail = "; ".join(each for each in (detail, _listed(totals)) if each)
        logger.log(
            ACTIONS[action],
            "%s on %s%s",
            action,
            self._queue,
            f": {_printable(detail)}" if detail else "",
            exc_info=error,
            extra=extra,
        )

    def count(self, name: str, count: int = 1) -> None:
        """Count something that happens too often to log."""
        with self._lock:
            self._counts[name] += count

    def counts(self) -> dict[str, int]:
        """How often each thing happened so far."""
        with self._lock:
            return dict(self._counts)


def _listed(totals: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in totals.items() if count) or "nothing was done"


def _printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or forge a second line of a log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
