# SPDX-License-Identifier: Apache-2.0
"""The suite judged: it has every case that it promises, its gates have twins, its plug-in does what it says."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from queuekit._values.capability import FEATURES
from queuekit.backend import (
    Action,
    Backend,
    Capabilities,
    ErrorClass,
    ErrorCode,
    IncomingMessage,
    InvalidURLError,
    OutgoingMessage,
    QueueURL,
    Rejected,
    SendOutcome,
    Settlement,
    SettleOutcome,
    Support,
    Unsupported,
)
from queuekit.testing import reset_memory
from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.contract.gates import GATES, closed_gate, requires
from queuekit.testing.contract.ids import GROUPS, all_ids, case_id
from queuekit.testing.contract.twins import TWINS
from queuekit.testing.contract.waiting import WAITING
from queuekit.testing.faults import FaultyOpener, InjectedFault, Script

CASES = {name: case for name, case in inspect.getmembers(BackendContract, callable) if name.startswith("test_")}

ABSENT: dict[str, dict[str, Any]] = {
    "absolute_extend": {"extend": "none"},
    "ack_confirmed": {"ack_confirmed": False},
    "admin": {"admin": False},
    "attempts": {"attempts": "none"},
    "cancel": {"cancel": False},
    "dead_letters": {"dead_letters": Support.NONE},
    "declared": {"queues": "implicit"},
    "dedup": {"dedup_window_s": 0.0},
    "delay": {"max_delay_s": 0.0},
    "delay_refused_with_ordering": {"ordering": "none"},
    "depth": {"depth": "none"},
    "disk": {"durability": "process"},
    "durable": {"durability": "process"},
    "encrypted": {"plaintext": True},
    "expiry": {"expiry": Support.NONE},
    "extend": {"extend": "none"},
    "fanout": {"fanout": False},
    "lease": {"lease": "connection"},
    "long_poll": {"long_poll": False},
    "message_bytes": {"max_message_bytes": 0},
    "native_dead_letters": {"dead_letters": Support.NONE},
    "ordering": {"ordering": "none"},
    "pause": {"pause": False},
    "peek": {"peek": False},
    "per_key": {"ordering": "none"},
    "priority": {"priority_levels": 0},
    "purge": {"purge": False},
    "push": {"pushes": "none"},
    "receive": {"receives": False},
    "redrive": {"redrive": Support.NONE},
    "release": {"release_counts": True},
    "retry_delay": {"max_retry_delay_s": 0.0},
    "strict_fencing": {"fencing": "none"},
}


class Minimal:
    """Memory that has nothing but the five verbs, and refuses every option and action that it does not declare."""

    def __init__(self, inner: Backend, absent: dict[str, Any]) -> None:
        self._inner = inner
        self._absent = absent

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(self._inner.capabilities, **self._absent)

    def probe(self) -> Capabilities:
        return self.capabilities

    def size(self, message: OutgoingMessage) -> int:
        return self._inner.size(message)

    def send(self, batch: Sequence[OutgoingMessage], *, timeout_s: float) -> Sequence[SendOutcome]:
        return [
            Rejected(ErrorClass(ErrorCode.UNSUPPORTED, sent="no"), each.message_id)
            if self._refuses(each)
            else self._inner.send([each], timeout_s=timeout_s)[0]
            for each in batch
        ]

    def receive(self, *, max_messages: int, wait_s: float, lease_s: float) -> Sequence[IncomingMessage]:
        return self._inner.receive(max_messages=max_messages, wait_s=wait_s, lease_s=lease_s)

    def settle(self, batch: Sequence[Settlement], *, timeout_s: float) -> Sequence[SettleOutcome]:
        return [
            Unsupported() if self._lacks(each) else self._inner.settle([self._counted(each)], timeout_s=timeout_s)[0]
            for each in batch
        ]

    def classify(self, error: BaseException) -> ErrorClass:
        return self._inner.classify(error)

    def close(self) -> None:
        self._inner.close()

    def _refuses(self, message: OutgoingMessage) -> bool:
        can = self.capabilities
        asked = (message.delay_s, message.ordering_key, message.dedup_id, message.priority)
        has = (can.max_delay_s, can.ordering != "none", can.dedup_window_s, can.priority_levels)
        return any(wanted and not there for wanted, there in zip(asked, has, strict=True))

    def _lacks(self, entry: Settlement) -> bool:
        can = self.capabilities
        return (
            (entry.action is Action.EXTEND and can.extend == "none")
            or (entry.action is Action.DEAD and can.dead_letters is not Support.NATIVE)
            or (entry.action is Action.RETRY and entry.delay_s > can.max_retry_delay_s)
        )

    def _counted(self, entry: Settlement) -> Settlement:
        counts = entry.action is Action.RELEASE and self.capabilities.release_counts
        return entry._replace(action=Action.RETRY) if counts else entry


class Liar(Minimal):
    """Declares that it lacks things, and does them all the same."""

    def _refuses(self, message: OutgoingMessage) -> bool:
        return False

    def _lacks(self, entry: Settlement) -> bool:
        return False


class WrappedHarness(Harness):
    """Memory inside another backend."""

    virtual = True
    one_process = True
    tolerance_s = 0.0
    wrapper: type[Minimal]
    absent: dict[str, Any]

    def base_url(self) -> str:
        return "memory://"

    def open(self, queue: str, *, opener: Any = None, **options: Any) -> Any:
        if self.wrapper is Minimal and "fanout" in self.absent and "subscription" in options:
            raise InvalidURLError("there are no subscriptions")
        return self.wrapper(super().open(queue, opener=opener, **options), self.absent)

    def cleanup(self) -> None:
        super().cleanup()
        reset_memory()


def _harness(directory: Path, wrapper: type[Minimal], absent: dict[str, Any]) -> WrappedHarness:
    harness = WrappedHarness(directory)
    harness.wrapper, harness.absent = wrapper, absent
    return harness


def test_every_promised_case_is_tested_or_waits_with_a_reason() -> None:
    tested = Counter(case_id(name) for name in CASES)
    assert None not in tested, "a test of the suite has no ID"
    assert [each for each, count in tested.items() if count > 1] == []
    assert sorted([*tested, *WAITING]) == sorted(all_ids())
    assert all(WAITING.values())


def test_the_table_of_groups_has_the_promised_size() -> None:
    assert sum(count for _title, count in GROUPS.values()) == len(set(all_ids())) == 261


@pytest.mark.parametrize("name", CASES)
def test_every_case_says_what_must_hold(name: str) -> None:
    text = inspect.getdoc(CASES[name])
    assert text
    assert text.rstrip().endswith(".")


def test_every_feature_and_every_gate_has_a_twin() -> None:
    assert set(GATES) == set(TWINS)
    assert set(FEATURES) <= set(GATES)
    used = {gate for case in CASES.values() for gate in getattr(case, "gates", ())}
    assert used <= set(TWINS)
    with pytest.raises(KeyError, match="no-such-gate"):
        requires("no-such-gate")


@pytest.mark.parametrize("gate", GATES)
def test_the_twin_passes_where_the_capability_is_absent_and_refused(gate: str, tmp_path: Path) -> None:
    harness = _harness(tmp_path, Minimal, ABSENT[gate])
    assert closed_gate((gate,), harness.capabilities) == gate
    TWINS[gate](harness)
    harness.cleanup()


@pytest.mark.parametrize(
    "gate", ["delay", "dedup", "ordering", "priority", "extend", "native_dead_letters", "retry_delay"]
)
def test_the_twin_fails_a_backend_that_does_what_it_does_not_declare(gate: str, tmp_path: Path) -> None:
    harness = _harness(tmp_path, Liar, ABSENT[gate])
    with pytest.raises(AssertionError):
        TWINS[gate](harness)
    harness.cleanup()


def test_a_gated_case_runs_its_twin_instead_of_skipping(tmp_path: Path) -> None:
    honest = _harness(tmp_path, Minimal, ABSENT["retry_delay"])
    BackendContract().test_ACK_05_retry_with_delay(honest)
    lying = _harness(tmp_path, Liar, ABSENT["retry_delay"])
    with pytest.raises(AssertionError, match="retry_delay is absent"):
        BackendContract().test_ACK_05_retry_with_delay(lying)


class Declared:
    """Opens memory as if its queues had to be made first; a sloppy one makes them all the same."""

    def __init__(self, harness: Harness, made: set[str], *, sloppy: bool) -> None:
        self._inner, self._made, self._sloppy = harness.opener, made, sloppy
        self.clock = harness.clock

    def open(self, url: QueueURL, keywords: Any = None) -> Backend:
        script = Script()
        if not self._sloppy and url.hosts[0].name not in self._made:
            script.always("send", _no_such_queue).always("receive", _no_such_queue)
        return FaultyOpener(self._inner, script, queues="declared").open(url, keywords)

    def close(self) -> None:
        self._inner.close()


def _no_such_queue(_call: Any, _proceed: Any) -> Any:
    raise InjectedFault(ErrorClass(ErrorCode.NOT_FOUND, sent="no"))


class DeclaredHarness(Harness):
    virtual = True
    one_process = True
    tolerance_s = 0.0

    def declare(self, *, sloppy: bool) -> None:
        self.made: set[str] = set()
        self.opener: Any = Declared(self, self.made, sloppy=sloppy)

    def base_url(self) -> str:
        return "memory://{name}"

    def url(self, queue: str) -> str:
        self.made.add(queue)
        return super().url(queue)


@pytest.mark.parametrize(
    "case", ["test_PRO_11_unroutable_is_rejected", "test_URL_10_nonexistent_queue_fails_on_first_use"]
)
def test_queues_that_must_be_declared_are_judged(case: str, tmp_path: Path) -> None:
    honest = DeclaredHarness(tmp_path)
    honest.declare(sloppy=False)
    getattr(BackendContract(), case)(honest)
    BackendContract().test_PRO_02_send_many_all_accepted(honest)
    honest.cleanup()
    sloppy = DeclaredHarness(tmp_path)
    sloppy.declare(sloppy=True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(BackendContract(), case)(sloppy)
    sloppy.cleanup()


def test_a_deviation_that_names_no_case_is_refused() -> None:
    with pytest.raises(ValueError, match="LEA-99"):
        type("TestMine", (BackendContract,), {"known_deviations": {"LEA-99": "?"}, "__module__": "mine"})


MINE = """
from queuekit.testing.contract import BackendContract, Harness
from queuekit.testing.faults import FaultyOpener, Script, edit_answer

class MineHarness(Harness):
    virtual = True
    one_process = True
    tolerance_s = 0.0

    def base_url(self):
        return "memory://"

    def open(self, queue, *, opener=None, **options):
        flawed = Script().always("receive", edit_answer(lambda got: [each._replace(attempt=1) for each in got]))
        return super().open(queue, opener=FaultyOpener(opener or self.opener, flawed), **options)

class TestMine(BackendContract):
    harness_class = MineHarness
    known_deviations = {"LEA-02": "attempts are not counted", "PRO-01": "passes, so this entry is stale"}
"""


def test_a_known_deviation_must_fail_and_is_listed(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(MINE, encoding="utf-8")
    ran = _pytest(tmp_path, "test_mine.py", "-k", "LEA_02 or PRO_01 or LEA_01")
    assert re.search("1 failed, 1 passed, .*1 xfailed", ran.stdout)
    assert "known deviations from the queuekit contract" in ran.stdout
    assert "TestMine  LEA-02  attempts are not counted" in ran.stdout
    assert "[XPASS(strict)] passes, so this entry is stale" in ran.stdout


@pytest.mark.parametrize("url", ["memory://", "memory://{name}", "sqlite:///{directory}/x.db"])
def test_the_suite_runs_against_a_url(tmp_path: Path, url: str) -> None:
    url = url.replace("{directory}", str(tmp_path))
    wanted = "PRO_01 or DEL_01 or ACK_03 or URL_01 or CON_10"
    ran = _pytest(tmp_path, "--pyargs", "queuekit.testing.contract", f"--queuekit-url={url}", "-k", wanted)
    assert "6 passed" in ran.stdout, ran.stdout


def test_without_a_url_no_case_of_the_package_runs(tmp_path: Path) -> None:
    ran = _pytest(tmp_path, "--pyargs", "queuekit.testing.contract", "-k", "PRO_01")
    assert "1 skipped" in ran.stdout
    assert "--queuekit-url" in ran.stdout


def test_the_plugin_imports_nothing_that_queuekit_itself_does_not() -> None:
    script = (
        "import sys, pytest, queuekit; before = set(sys.modules); import queuekit.testing.plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "['queuekit.testing', 'queuekit.testing.plugin']"


def _pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugin = _plugin_argument()
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *plugin, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=120)


def _plugin_argument() -> list[str]:
    """The plug-in by its entry point, or by name where this checkout was installed before it had one."""
    from importlib.metadata import entry_points

    installed = any(each.value == "queuekit.testing.plugin" for each in entry_points(group="pytest11"))
    return [] if installed else ["-p", "queuekit.testing.plugin"]
