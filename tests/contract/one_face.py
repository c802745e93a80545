# SPDX-License-Identifier: Apache-2.0
"""For services that are slow: the contract in one face of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from queuekit.testing.contract import Harness
from queuekit.testing.contract.faces import Face


class OneFace:
    """The engine is the same above every backend: one face of it is judged on each kind of queue.

    Attributes:
        awaits: Whether it is the one that awaits.
    """

    awaits: ClassVar[bool] = False

    @pytest.fixture
    def face(self, harness: Harness) -> Iterator[Face]:
        face = Face(harness, awaits=self.awaits)
        yield face
        face.cleanup()
