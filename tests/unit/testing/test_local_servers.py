# SPDX-License-Identifier: Apache-2.0
"""A local server that does not start says why."""

import stat
from pathlib import Path

import pytest

from queuekit.testing.emulators import LocalFauxqs, LocalPubSub, LocalRedis

WHY = "cannot allocate a thing"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "server"
    path.write_text(f"#!/bin/sh\necho begins\necho '{WHY}' >&2\nexit 1\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_redis(program: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"server does not start; its last output was:\nbegins\n{WHY}"):
        LocalRedis(tmp_path / "data", program).start()


def test_pubsub(program: Path) -> None:
    with pytest.raises(RuntimeError, match=f"LocalPubSub does not start; its last output was:\nbegins\n{WHY}"):
        LocalPubSub(program).start()


def test_sqs(tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.testing.local_sqs._node", lambda: str(program))
    with pytest.raises(RuntimeError, match=f"LocalFauxqs does not start; its last output was:\nbegins\n{WHY}"):
        LocalFauxqs(tmp_path).start()


def test_one_that_says_nothing(tmp_path: Path, program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RuntimeError, match="it wrote nothing"):
        LocalRedis(tmp_path / "data", program).start()
