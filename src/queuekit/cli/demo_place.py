# SPDX-License-Identifier: Apache-2.0
"""What the demo and its workers share: a folder with a queue, a ledger and a few marks, and a kind of task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel

from queuekit import UsageError
from queuekit.cli.ledger import Line, read_lines, write_line

QUEUE = "files"
LEASE_S = 3
SLOTS = 4
PREFETCH = 32
VARIABLE = "QUEUEKIT_DEMO_FOLDER"

Trouble = Literal["none", "fails twice", "poison"]


class FileTask(BaseModel):
    """A file to hash.

    Attributes:
        path: The file.
        trouble: What goes wrong with it, for show.
        pause_s: Seconds that it takes longer, so that a few files keep the workers busy too.
    """

    path: str
    trouble: Trouble = "none"
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one run."""

    folder: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        """The place that a worker was told.

        Raises:
            UsageError: It was told none.
        """
        if VARIABLE not in environment:
            msg = f"{VARIABLE} is not set; these workers are started by queuekit demo"
            raise UsageError(msg)
        return cls(Path(environment[VARIABLE]))

    @property
    def app_url(self) -> str:
        """The URL of the store, without a queue."""
        return "sqlite:///" + quote(str(self.folder / "queue.db"))

    @property
    def queue_url(self) -> str:
        """The URL of the queue."""
        return f"{self.app_url}?queue={QUEUE}"

    @property
    def ledger(self) -> Path:
        """One line for each handled file."""
        return self.folder / "ledger.jsonl"

    @property
    def log(self) -> Path:
        """What the workers had to say."""
        return self.folder / "workers.log"

    @property
    def cure(self) -> Path:
        """Once it exists, the poisonous file is poisonous no more."""
        return self.folder / "fixed"

    def last_words(self) -> list[str]:
        """The end of the log."""
        return self.log.read_text("utf-8", "replace").splitlines()[-10:] if self.log.exists() else []

    def mark_up(self, pid: int) -> Path:
        """Exists once that worker is about to receive."""
        return self.folder / f"up-{pid}"

    def append(self, line: Line) -> None:
        """Add one line to the ledger by one write, which the operating system never mixes with another's."""
        descriptor = os.open(self.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, write_line(line))
        finally:
            os.close(descriptor)

    def lines(self) -> list[Line]:
        """The whole ledger so far."""
        return read_lines(self.ledger.read_bytes())[0] if self.ledger.exists() else []


class LedgerTail:
    """Reads what was appended to the ledger since the last time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Line]:
        """The lines that were completed since."""
        if not self._place.ledger.exists():
            return []
        with self._place.ledger.open("rb") as ledger:
            ledger.seek(self._offset)
            data = ledger.read()
        self._offset += len(data)
        lines, self._rest = read_lines(self._rest + data)
        return lines
