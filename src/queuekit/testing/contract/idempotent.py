# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""DUP, second half: handlers whose work is done once by key, with every store that comes with queuekit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tenacity import wait_none

from queuekit._portable.idempotent import Idempotency
from queuekit._portable.retry import RetryPolicy
from queuekit._portable.worker import ExitCode
from queuekit._values.url import QueueURL
from queuekit.stores import ClaimState, IdempotencyStore
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue
from queuekit.testing.contract.working import Work

_KEY = "order-7"
_AGAIN = RetryPolicy(max_attempts=50, wait=wait_none())


class Idempotent(Group):
    """A message that is delivered again does not do its work again."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One run of a case for each store that the harness names, or every harness does."""
        if "store" in metafunc.fixturenames:
            metafunc.parametrize("store", getattr(self, "harness_class", Harness).stores)

    @pytest.fixture
    def store_url(self, store: str, harness: Harness) -> str:
        """Where done work is remembered."""
        return harness.store_url(store)

    @requires("lease")
    def test_DUP_07_idempotent_handler_runs_once(self, harness: Harness, face: Face, store_url: str) -> None:
        """An ack that never took effect brings the message back, and the handler is not run again for it."""
        queue = Queue(harness)
        queue.put(b"x")
        work = _work(face, queue, _do_nothing, store_url, loses=1, leases=2)
        work.await_begun(1)
        work.await_true(lambda: _acked(work) >= 1, "the ack that is lost")
        work.await_true(lambda: _acked(work) >= 2, "the ack of the redelivery", within_s=12 * harness.min_lease_s)
        assert work.stop() is ExitCode.DRAINED
        assert work.begun == [b"x"]
        queue.expect_nothing("it is acked")

    def test_DUP_08_failed_handler_is_not_marked_done(self, harness: Harness, face: Face, store_url: str) -> None:
        """A failure leaves the key free: the next attempt runs, at once, and its success counts."""
        queue, failures = Queue(harness), [ValueError("once"), KeyboardInterrupt()]
        queue.put(b"x")

        def handle(_body: bytes) -> None:
            if failures:
                raise failures.pop()

        work = _work(face, queue, handle, store_url)
        work.await_begun(3)
        assert work.stop() is ExitCode.DRAINED
        assert work.begun == [b"x"] * 3
        queue.expect_nothing("it is done")

    def test_DUP_09_in_progress_lease_expires(self, harness: Harness, face: Face, store_url: str) -> None:
        """While somebody holds the key the handler waits, without an attempt lost; a dead holder's claim runs out."""
        queue, store = Queue(harness), _open(harness, store_url)
        left_s = 2 * harness.min_lease_s
        started = harness.clock.monotonic()
        claimed = store.claim(_scoped(harness, queue), owner="dead", lease_s=left_s, fingerprint="")
        assert claimed.state is ClaimState.CLAIMED
        queue.put(b"x")
        moments: list[float] = []
        work = _work(face, queue, lambda _: moments.append(harness.clock.monotonic()), store_url)
        work.await_begun(1, within_s=3 * left_s)
        assert work.stop() is ExitCode.DRAINED
        assert moments[0] >= started + left_s
        assert store.claim(_scoped(harness, queue), owner="late", lease_s=1, fingerprint="").state is ClaimState.DONE

    def test_DUP_10_stale_owner_is_fenced(self, harness: Harness, store_url: str) -> None:
        """Once a claim has gone to another owner, the former one can neither complete nor free it."""
        store = _open(harness, store_url)
        store.claim(_KEY, owner="old", lease_s=harness.min_lease_s, fingerprint="")
        harness.pass_time(harness.min_lease_s)
        assert store.claim(_KEY, owner="new", lease_s=60, fingerprint="").state is ClaimState.CLAIMED
        assert not store.complete(_KEY, owner="old", keep_s=60)
        assert not store.forget(_KEY, owner="old")
        assert not store.renew(_KEY, owner="old", lease_s=60)
        assert store.claim(_KEY, owner="third", lease_s=60, fingerprint="").state is ClaimState.BUSY
        assert store.complete(_KEY, owner="new", keep_s=60)

    @pytest.mark.parametrize("fail_open", [False, True], ids=["closed", "open"])
    def test_DUP_11_store_down_policy(
        self, harness: Harness, face: Face, fail_open: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that cannot be asked: the message waits and the handler does not run, unless that was chosen."""
        queue, folder = Queue(harness), harness.directory / "not-there-yet"
        (sent,) = queue.put(b"x")
        url = f"sqlite:///{folder}/done.db"
        work = _work(face, queue, _do_nothing, url, fail_open=fail_open, key=None)
        if not fail_open:
            work.await_true(lambda: _logged(caplog, "idempotency.unavailable"), "the store is asked in vain")
            assert not work.begun
            folder.mkdir()
        work.await_begun(1, within_s=4 * harness.min_lease_s)
        assert work.stop() is ExitCode.DRAINED
        assert work.begun == [b"x"]
        queue.expect_nothing(f"{sent.message_id} is done")


def _work(
    face: Face,
    queue: Queue,
    handle: Callable[[Any], Any],
    store: str,
    *,
    fail_open: bool = False,
    key: Callable[[Any], str] | None = lambda _: _KEY,
    leases: int = 1,
    **options: Any,
) -> Work:
    choice = Idempotency(store=store, key=key, check_payload=False, fail_open=fail_open)
    lease = timedelta(seconds=leases * queue.harness.min_lease_s)
    return Work(face, queue, handle, idempotent=choice, retry=_AGAIN, lease=lease, message_type="work", **options)


def _acked(work: Work) -> int:
    (counts,) = work.app.counts().values()
    return counts["settled"]


def _open(harness: Harness, url: str) -> IdempotencyStore:
    return harness.opener.open_store(QueueURL.parse(url))


def _logged(caplog: pytest.LogCaptureFixture, action: str) -> bool:
    return any(getattr(record, "action", "") == action for record in caplog.records)


def _scoped(harness: Harness, queue: Queue) -> str:
    return f"{QueueURL.parse(harness.url(queue.name))}:work:{_KEY}"


def _do_nothing(_body: bytes) -> None:
    """The work is that it was begun."""
