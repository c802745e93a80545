# SPDX-License-Identifier: Apache-2.0
"""What is said of any queue, and what ``strict=true`` does with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

import queuekit as qk
from queuekit._engine.diagnosing import diagnose
from queuekit._engine.guard import Guard
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import Finding, Support, Wanted
from queuekit.testing.faults import FaultyOpener, Script, wrap

LOSS = Finding(severity="loss", code="own", text="it is careless", remedy="mend it", loses="something, at times")
WARNING = Finding(severity="warning", code="odd", text="it is odd")


class Judged:
    """A backend that says what is wrong with it."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings
        self.wanted: list[Wanted] = []
        self.threads: list[threading.Thread] = []

    def opener(self) -> Any:
        opener, judged = FaultyOpener(Opener(SystemClock())), self
        inner = opener.open

        def open_judged(url: qk.QueueURL, keywords: Any = None) -> Any:
            backend: Any = inner(url, keywords)

            def say(wanted: Wanted) -> Sequence[Finding]:
                judged.wanted.append(wanted)
                judged.threads.append(threading.current_thread())
                return judged.findings

            backend.diagnose = say
            return backend

        opener.open = open_judged  # type: ignore[method-assign]
        return opener


def judged_by_capabilities(wanted: Wanted | None = None, **capabilities: Any) -> qk.Diagnosis:
    """A third party's queue that does not judge itself."""
    inner: Any = Opener(SystemClock()).open(qk.QueueURL.parse("memory://q"))

    class Plain:
        def __getattr__(self, name: str) -> Any:
            if name == "diagnose":
                raise AttributeError(name)
            return getattr(inner, name)

    backend = wrap(Plain(), Script(), limits={"durability": "disk", **capabilities})
    return diagnose(backend, Guard(backend, "memory://q"), backend.probe(), wanted or Wanted())


def codes(found: qk.Diagnosis) -> list[tuple[str, str]]:
    return [(each.severity, each.code) for each in found.findings]


def test_a_queue_that_is_on_disk_and_does_all_it_should_is_well() -> None:
    found = judged_by_capabilities()
    assert (found.ok, found.findings) == (True, ())
    assert found.can_lose == "This can lose nothing that was accepted, as long as the disk that it is on lasts."
    assert judged_by_capabilities(durability="replicated").can_lose.startswith("This can lose nothing that was")


@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ({"durability": "process"}, ("loss", "volatile")),
        ({"assumed": frozenset({"server"})}, ("note", "assumed")),
        ({"fencing": "lenient"}, ("note", "late_settlements")),
        ({"ack_confirmed": False}, ("note", "acks_unconfirmed")),
        ({"dead_letters": Support.NONE}, ("warning", "no_dead_letters")),
        ({"native_max_attempts": 5}, ("warning", "native_limit")),
        ({"max_lease_s": 30.0}, ("warning", "lease_out_of_range")),
    ],
)
def test_what_follows_from_capabilities_is_said(capabilities: dict[str, Any], said: tuple[str, str]) -> None:
    found = judged_by_capabilities(Wanted(max_attempts=5, lease_s=60.0), **capabilities)
    assert codes(found) == [said]
    assert found.ok is (said[0] != "loss")


def test_limits_that_nobody_asked_about_are_not_judged() -> None:
    assert judged_by_capabilities(native_max_attempts=1, max_lease_s=0.01).findings == ()


def test_a_loss_that_the_backend_names_takes_the_place_of_the_general_one() -> None:
    backend = Judged(WARNING, LOSS).opener().open(qk.QueueURL.parse("memory://q"))
    found = diagnose(backend, Guard(backend, "memory://q"), backend.probe(), Wanted())
    assert codes(found) == [("loss", "own"), ("warning", "odd")], "the gravest first"
    assert found.can_lose == "This can lose something, at times."
    with pytest.raises(qk.UnsafeSettingsError, match=r"it is careless \(mend it\)") as error:
        found.raise_for_losses()
    assert error.value.findings == (LOSS,)


def test_the_doctor_holds_what_is_wanted_against_the_queue() -> None:
    found = qk.doctor("memory://q", max_attempts=3, lease=timedelta(days=2))
    assert [each.code for each in found.findings] == ["volatile", "lease_out_of_range"]
    assert found.url == "memory://q"
    with pytest.raises(qk.UsageError, match="max_attempts"):
        qk.doctor("memory://q", max_attempts=0)
    with pytest.raises(qk.InvalidURLError, match="spase"):
        qk.doctor("memory://q", spase="x")
    assert asyncio.run(qk.adoctor("memory://q")) == qk.doctor("memory://q")


def test_lanes_are_judged_once_where_they_say_the_same() -> None:
    assert [each.code for each in qk.doctor("memory://q?lanes=high,low").findings] == ["volatile"]


def test_strict_passes_warnings_and_asks_once() -> None:
    judged = Judged(WARNING)
    limited = judged.opener()
    limited._limits["durability"] = "disk"
    with qk.Producer("memory://q", strict=True, _opener=limited) as producer:
        producer.send(b"x")
        producer.send(b"x")
    assert len(judged.wanted) == 1


def test_what_is_refused_once_is_refused_again() -> None:
    """A refusal that was remembered as a probe would let the second call through."""
    limited = FaultyOpener(Opener(SystemClock()))
    producer = qk.Producer("memory://q", require=["delay"], _opener=limited)
    limited._limits["max_delay_s"] = 0.0
    producer._link.backend._limits["max_delay_s"] = 0.0  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(qk.UnsupportedError, match="delay"):
            producer.send(b"x")
    producer.close()


def test_the_async_face_asks_on_a_thread() -> None:
    judged = Judged(LOSS)

    async def main() -> None:
        producer = qk.Producer("memory://q", strict=True, _opener=judged.opener())
        consumer = qk.Consumer("memory://q", strict=True, _opener=judged.opener())
        for call in (producer.asend(b"x"), producer.asend_many([b"x"]), producer.__aenter__(), consumer.areceive()):
            with pytest.raises(qk.UnsafeSettingsError):
                await call
        await producer.aclose()
        await consumer.aclose()

    asyncio.run(main())
    assert len(judged.threads) == 4
    assert threading.main_thread() not in judged.threads


def test_a_block_that_is_not_entered_leaves_nothing_open() -> None:
    made: Any
    for made in (qk.Producer("memory://q", strict=True), qk.Consumer[bytes]("memory://q", strict=True)):
        with pytest.raises(qk.UnsafeSettingsError), made:
            pytest.fail("it was entered")
        with pytest.raises(qk.ClosedError):
            made.check()


def test_a_worker_says_how_it_is_going_to_work_the_queue() -> None:
    judged = Judged(LOSS)
    app = qk.App("memory://", strict=True)
    app._opener = judged.opener()

    @app.handler("q", lease=timedelta(seconds=90), retry=qk.RetryPolicy(max_attempts=7))
    def handle(_body: bytes) -> None:
        pytest.fail("it was refused")

    with app, pytest.raises(qk.UnsafeSettingsError, match="it is careless"):
        app.run(signals=False)
    assert judged.wanted == [Wanted(max_attempts=7, lease_s=90.0)]


def test_info_lists_what_strict_refuses_and_raises_nothing() -> None:
    from queuekit._portable.link import open_link

    opener = Judged(LOSS).opener()
    report = open_link("memory://q?strict=true", None, {}, opener=opener).check()
    assert (report.ok, report.problems) == (False, ("it is careless",))
    with pytest.raises(qk.UnsafeSettingsError):
        report.raise_for_problems()
