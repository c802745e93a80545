# SPDX-License-Identifier: Apache-2.0
"""What queuekit logs while a case runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Keeper(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def logged(level: int = logging.DEBUG) -> Iterator[list[logging.LogRecord]]:
    """Every record of queuekit's logger from this level up, as it comes."""
    logger, keeper = logging.getLogger("queuekit"), _Keeper(level)
    before = logger.level
    logger.addHandler(keeper)
    logger.setLevel(level)
    try:
        yield keeper.records
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(before)


def of_action(records: list[logging.LogRecord], action: str) -> list[logging.LogRecord]:
    """The records of one action."""
    return [each for each in records if getattr(each, "action", "") == action]
