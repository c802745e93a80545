# SPDX-License-Identifier: Apache-2.0
"""What every group of cases has: it runs only in a subclass of yours, against your harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.ids import all_ids

_SUITE = __name__.rpartition(".")[0]


class Group:
    """The base of all groups.

    Attributes:
        harness_class: Your harness.
        known_deviations: ID of a case that your backend fails, to the reason. The case still runs, must
            fail, and is listed at the end of the run; once it passes, the run is red until the entry goes.
    """

    __test__: ClassVar[bool] = False
    harness_class: ClassVar[type[Harness]]
    known_deviations: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = sorted(set(cls.known_deviations) - set(all_ids()))
        if unknown:
            msg = f"{cls.__name__}.known_deviations names cases that do not exist: {', '.join(unknown)}"
            raise ValueError(msg)
        if "__test__" not in cls.__dict__:
            cls.__test__ = cls.__module__ != _SUITE and cls.__module__.rpartition(".")[0] != _SUITE

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        """A fresh harness for each case."""
        harness = self.harness_class(tmp_path)
        yield harness
        harness.cleanup()

    @pytest.fixture(params=["sync", "async"])
    def face(self, request: pytest.FixtureRequest, harness: Harness) -> Iterator[Face]:
        """The public API in either face."""
        face = Face(harness, awaits=request.param == "async")
        yield face
        face.cleanup()
