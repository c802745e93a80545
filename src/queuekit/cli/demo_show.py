# SPDX-License-Identifier: Apache-2.0
"""How the demo shows its progress on stderr: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from queuekit.cli.showing import clean, say, talk_console

_QUARTERS = 4


class Show(Protocol):
    """Where the demo tells what happens."""

    def tell(self, text: str) -> None:
        """Say what has just happened."""
        ...

    def progress(self, done: int) -> None:
        """Say how many files are done; called often."""
        ...


class LiveShow:
    """A progress bar, with what happens above it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def tell(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(Text(clean(text)))

    def progress(self, done: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done)


class PlainShow:
    """One line for everything that happens, and for each quarter of the files."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._told = 0

    def tell(self, text: str) -> None:
        """Print a line."""
        say(text)

    def progress(self, done: int) -> None:
        """Print a line at each quarter."""
        quarter = done * _QUARTERS // self._total
        if quarter > self._told:
            self._told = quarter
            say(f"{done} of {self._total} files done")


@contextmanager
def open_show(total: int) -> Iterator[Show]:
    """The right kind of show for where stderr goes."""
    console = talk_console()
    if not console.is_terminal:
        yield PlainShow(total)
        return
    columns = (TextColumn("hashing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        yield LiveShow(bar, bar.add_task("hashing", total=total))
