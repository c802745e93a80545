# SPDX-License-Identifier: Apache-2.0
"""Google's own emulator of Pub/Sub."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from queuekit.testing.local_sqs import LocalServer

_PROGRAM = "platform/pubsub-emulator/bin/cloud-pubsub-emulator"
_FOLDERS = ("/usr/lib/google-cloud-sdk", "/usr/local/google-cloud-sdk", "/opt/google-cloud-sdk")
_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Xmx512m"
"""It starts in half of the time, and leaves a small host to the tests."""


def pubsub_program() -> Path | None:
    """The emulator's program, or None where it is not installed.

    It comes with the Google Cloud SDK, as ``gcloud components install pubsub-emulator`` or the Debian package
    ``google-cloud-cli-pubsub-emulator``, and needs Java. ``QUEUEKIT_PUBSUB_EMULATOR`` names another program.
    """
    given = os.environ.get("QUEUEKIT_PUBSUB_EMULATOR")
    if given:
        return Path(given)
    gcloud = shutil.which("gcloud")
    beside = [Path(gcloud).resolve().parents[1]] if gcloud else []
    found = (Path(folder, _PROGRAM) for folder in (*beside, *map(Path, _FOLDERS), Path.home() / "google-cloud-sdk"))
    return next((each for each in found if each.exists()), None) if shutil.which("java") else None


class LocalPubSub(LocalServer):
    """The emulator, on a free port of the loopback interface. What it holds is gone with it.

    What it does otherwise than the service stands in docs/backends/pubsub.md.

    Args:
        program: See `pubsub_program`.

    Concurrency:
        One thread at a time; what it serves, from anywhere.
    """

    def __init__(self, program: Path) -> None:
        super().__init__()
        self._program = program

    @property
    def address(self) -> str:
        """What ``?endpoint=`` and ``PUBSUB_EMULATOR_HOST`` take."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of its queues, without a name, in a project of tests."""
        return f"pubsub://test-project?endpoint={self.address}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, it does not answer, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _launch(self, port: int) -> subprocess.Popen[str]:
        # Its script replaces itself by Java, so that the process which is ended is the emulator.
        command = [str(self._program), "--host=127.0.0.1", f"--port={port}"]
        return self._run(command, env=os.environ | {"JAVA_OPTS": _JAVA})

    def _health(self) -> str:
        return "/"
