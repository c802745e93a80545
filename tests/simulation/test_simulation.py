# SPDX-License-Identifier: Apache-2.0
"""A thousand small worlds, each decided by its seed: workers that fail, pause and die, and nothing is lost."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuekit._engine import leases
from queuekit._engine.settling import Settler
from queuekit._engine.shutdown import ShutdownPlan, Step
from queuekit._values.outcome import Failed, Settled

from .world import KINDS, replay

WORLDS = int(os.environ.get("QUEUEKIT_SEEDS", "1000"))
PARTS = 5

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    # To format each record of a thousand worlds would take longer than the worlds.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def demanded() -> list[tuple[int, str]]:
    """The one world that the environment names, such as ``4711:kills``; a seed alone draws its kind."""
    seed, _, kind = os.environ.get("QUEUEKIT_SEED", "").partition(":")
    return [(int(seed), kind)] if seed else []


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_whatever_goes_wrong(kind: str, part: int) -> None:
    per_kind = WORLDS // len(KINDS)
    for seed, drawn in demanded() or [(seed, kind) for seed in range(part, per_kind, PARTS)]:
        report, _digest = replay(seed, drawn)
        assert report.acknowledged
        assert report.ok == report.acknowledged


def test_a_seed_is_one_history_in_every_process() -> None:
    here = [replay(seed)[1] for seed in range(8)]
    assert [replay(seed)[1] for seed in range(8)] == here
    assert len(set(here)) == 8
    world = Path(__file__).with_name("world.py")
    env = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONWARNINGS": "ignore"}
    there = subprocess.run(
        [sys.executable, world, *map(str, range(8))], env=env, capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == here


def found_in(kind: str, worlds: int) -> str:
    """What is said about the first world that fails, and its seed."""
    for seed in range(worlds):
        try:
            replay(seed, kind)
        except AssertionError as error:
            return "\n".join([str(error), *error.__notes__])
    return ""


def _renews_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "_RENEW_AT", 0.0)


def _drops_what_failed(patch: pytest.MonkeyPatch) -> None:
    judge = Settler.judge

    def lenient(self: Settler, held: Any, outcome: Any, now: float) -> Any:
        return Settled() if isinstance(outcome, Failed) else judge(self, held, outcome, now)

    patch.setattr(Settler, "judge", lenient)


def _closes_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    following = ShutdownPlan.next

    def hasty(self: ShutdownPlan, now: float, standing: Any) -> Step:
        step = following(self, now, standing)
        return Step.CLOSE if step is Step.FLUSH else step

    patch.setattr(ShutdownPlan, "next", hasty)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(_renews_too_late, "calm"), (_drops_what_failed, "answers"), (_closes_before_the_flush, "calm")],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_in(kind, 15) == ""
    plant(monkeypatch)
    found = found_in(kind, 60)
    assert "needless repeats" in found
    assert re.search(rf"QUEUEKIT_SEED=\d+:{kind} pytest tests/simulation", found)
