# SPDX-License-Identifier: Apache-2.0
"""The list of features is walked twice: what is declared works, and what is not is refused before any call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from queuekit import Consumer, DeadLetters, Producer, UnsupportedError
from queuekit._values.capability import FEATURES
from queuekit.backend import Admin, Cancellable, Pausable, Peekable, PushCodec, Redrivable
from queuekit.testing.contract import Harness
from queuekit.testing.contract.ids import GROUPS
from queuekit.testing.contract.twins import TWINS
from queuekit.testing.faults import FaultyOpener

from .test_memory import MemoryHarness
from .test_sqlite import SQLiteHarness
from .test_suite import ABSENT
from .test_suite_catches_broken_backends import _run

PROOFS: Mapping[str, str] = {
    "ack_confirmed": "ACK-15",
    "admin": "ADM-01",
    "attempts": "LEA-18",
    "cancel": "DEL-15",
    "dead_letters": "DLQ-01",
    "dedup": "DUP-01",
    "delay": "DEL-01",
    "depth": "ADM-05",
    "durable": "PRO-07",
    "expiry": "EXP-01",
    "extend": "LEA-04",
    "fanout": "CON-12",
    "lease": "LEA-02",
    "long_poll": "CON-08",
    "message_bytes": "ENC-14",
    "ordering": "ORD-04",
    "pause": "ADM-09",
    "peek": "ADM-07",
    "priority": "CCY-13",
    "purge": "ADM-04",
    "push": "PSH-01",
    "receive": "CON-01",
    "redrive": "RED-01",
    "release": "ACK-07",
    "retry_delay": "ACK-05",
    "strict_fencing": "LEA-09",
}
"""The case that proves a declared feature."""


def _send(**options: Any) -> Callable[[Harness, FaultyOpener], None]:
    def use(harness: Harness, opener: FaultyOpener) -> None:
        with Producer(harness.url(harness.unique_name()), _opener=opener) as producer:
            producer.send(b"x", **options)

    return use


def _receive(harness: Harness, opener: FaultyOpener) -> None:
    Consumer(harness.url(harness.unique_name()), _opener=opener).close()


def _look(harness: Harness, opener: FaultyOpener) -> None:
    DeadLetters(harness.url(harness.unique_name()), _opener=opener).close()


def _redrive(harness: Harness, opener: FaultyOpener) -> None:
    with DeadLetters(harness.url(harness.unique_name()), _opener=opener) as letters:
        letters.redrive()


CALLS: Mapping[str, Callable[[Harness, FaultyOpener], None]] = {
    "dedup": _send(dedup_id="d"),
    "delay": _send(delay=timedelta(seconds=1)),
    "ordering": _send(ordering_key="k"),
    "peek": _look,
    "priority": _send(priority=9),
    "receive": _receive,
    "redrive": _redrive,
}
"""The public call that needs a feature; the others have none that can do without I/O, and are asked for by name."""

ABILITIES: Mapping[str, Any] = {
    "admin": Admin,
    "cancel": Cancellable,
    "pause": Pausable,
    "peek": Peekable,
    "push": PushCodec,
    "redrive": Redrivable,
}


@pytest.fixture(params=[MemoryHarness, SQLiteHarness], ids=["memory", "sqlite"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made: Harness = request.param(tmp_path)
    yield made
    made.cleanup()


def test_every_feature_has_a_proof_and_a_way_to_be_absent() -> None:
    assert set(PROOFS) == set(FEATURES)
    assert set(FEATURES) <= set(ABSENT)
    assert set(CALLS) <= set(FEATURES)
    assert {case[:3] for case in PROOFS.values()} <= set(GROUPS)


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_declared_works_and_what_is_not_is_refused(feature: str, harness: Harness) -> None:
    name, ability = harness.unique_name(), ABILITIES.get(feature)
    declared = not harness.capabilities.missing([feature])
    if ability is not None:
        assert isinstance(harness.open(name), ability) == declared
    if declared:
        with Producer(harness.url(name), _opener=harness.opener, require=[feature]) as producer:
            assert producer.check().ok
        _run(PROOFS[feature], harness)
        return
    opener = FaultyOpener(harness.opener)
    with pytest.raises(UnsupportedError, match=feature):
        Producer(harness.url(name), _opener=opener, require=[feature])
    assert opener.script.calls() == []
    TWINS[feature](harness)


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_declared_no_more_is_refused_and_nothing_reaches_the_store(feature: str, harness: Harness) -> None:
    opener = FaultyOpener(harness.opener, **ABSENT[feature])
    url = harness.url(harness.unique_name())
    for opens in (Producer, Consumer):
        with pytest.raises(UnsupportedError, match=feature):
            opens(url, _opener=opener, require=[feature])
    if feature in CALLS:
        with pytest.raises(UnsupportedError):
            CALLS[feature](harness, opener)
    assert opener.script.calls() == []


@pytest.mark.parametrize("feature", CALLS)
def test_the_same_call_passes_where_the_feature_is_declared(feature: str, harness: Harness) -> None:
    """So that a refusal above is not one of something else."""
    CALLS[feature](harness, FaultyOpener(harness.opener))
