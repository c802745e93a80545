# SPDX-License-Identifier: Apache-2.0
"""Logging of ``queuekit worker``: one readable line per record, to stderr."""

from __future__ import annotations

import logging

from queuekit.cli.choices import LogLevel
from queuekit.cli.showing import clean


class LineFormatter(logging.Formatter):
    """Formats records so that a message's content can neither steer the terminal nor forge a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """The record's own line, escaped."""
        return clean(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - the name is logging's
        """The traceback, escaped line by line."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(clean(line) for line in text.split("\n"))


def set_up_logging(level: LogLevel) -> None:
    """Send log records to stderr, unless the app has set up logging itself; then only queuekit's level is set."""
    number = logging.getLevelNamesMapping()[level.name]
    root = logging.getLogger()
    if root.handlers:
        logging.getLogger("queuekit").setLevel(number)
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    root.addHandler(handler)
    root.setLevel(number)
