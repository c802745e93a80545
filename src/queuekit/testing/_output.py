# SPDX-License-Identifier: Apache-2.0
"""What a local server writes: why it does not start stands there, and nowhere else."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable

_MOST_LINES = 20
_ENDS_S = 1.0


class Output:
    """Reads what a server writes, and keeps the last lines. A pipe that nobody reads would stop it in the end.

    Args:
        process: The server; its output is a pipe of text.
        heard: Is told of each line.
        ended: Is told when there will be no more.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        heard: Callable[[str], object] = lambda _line: None,
        *,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._process, self._heard, self._ended = process, heard, ended
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._thread = threading.Thread(target=self._read, name="local-server-output", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """A sentence with the last lines; to be asked for when the server has ended."""
        self._thread.join(_ENDS_S)  # a child of the server may hold the pipe for longer
        lines = list(self._lines)
        return "its last output was:\n" + "".join(lines) if lines else "it wrote nothing"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)
                self._heard(line)
        self._ended()
