# SPDX-License-Identifier: Apache-2.0
"""Idempotency stores: what they answer, whoever asks, and what they remember for how long."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from queuekit import InvalidURLError, QueueURL, UnknownSchemeError
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.backends.sqlite import _turns
from queuekit.backends.sqlite._idempotency import SQLiteIdempotency
from queuekit.backends.sqlite._turns import Turns
from queuekit.stores import Claim, ClaimState, IdempotencyStore, Transactional
from queuekit.testing import VirtualClock

CLAIMED, DONE, BUSY, MISMATCH = ClaimState


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> QueueURL:
    return QueueURL.parse("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/done.db")


@pytest.fixture
def store(url: QueueURL, clock: VirtualClock) -> Iterator[IdempotencyStore]:
    opened = Opener(clock).open_store(url)
    assert isinstance(opened, IdempotencyStore)
    yield opened
    opened.close()


def claim(store: IdempotencyStore, owner: str, *, key: str = "k", payload: str = "p", lease_s: float = 60.0) -> Claim:
    return store.claim(key, owner=owner, lease_s=lease_s, fingerprint=payload)


def test_one_has_the_work_and_the_others_are_told_for_how_long(store: IdempotencyStore, clock: VirtualClock) -> None:
    assert claim(store, "a").state is CLAIMED
    clock.advance(20)
    assert claim(store, "b") == Claim(BUSY, 40.0)
    assert claim(store, "b", key="other").state is CLAIMED


def test_what_is_done_is_done_until_its_time_is_over(store: IdempotencyStore, clock: VirtualClock) -> None:
    claim(store, "a")
    assert store.complete("k", owner="a", keep_s=100)
    clock.advance(99.5)
    assert claim(store, "b").state is DONE
    clock.advance(0.5)
    assert claim(store, "b").state is CLAIMED


def test_a_claim_that_is_forgotten_is_free_at_once(store: IdempotencyStore) -> None:
    claim(store, "a")
    assert store.forget("k", owner="a")
    assert claim(store, "b").state is CLAIMED


def test_a_claim_that_is_not_renewed_runs_out(store: IdempotencyStore, clock: VirtualClock) -> None:
    claim(store, "a")
    clock.advance(59.5)
    assert store.renew("k", owner="a", lease_s=60)
    clock.advance(59.5)
    assert claim(store, "b").state is BUSY
    clock.advance(0.5)
    assert claim(store, "b").state is CLAIMED


def test_a_former_owner_can_do_nothing_to_the_new_one(store: IdempotencyStore, clock: VirtualClock) -> None:
    claim(store, "a")
    clock.advance(60)
    claim(store, "b")
    assert not store.renew("k", owner="a", lease_s=60)
    assert not store.complete("k", owner="a", keep_s=60)
    assert not store.forget("k", owner="a")
    assert claim(store, "c") == Claim(BUSY, 60.0)
    assert store.complete("k", owner="b", keep_s=60)


def test_work_that_is_done_late_is_done_where_nobody_else_took_it(
    store: IdempotencyStore, clock: VirtualClock
) -> None:
    claim(store, "a")
    clock.advance(61)
    claim(store, "x", key="another")  # old keys are swept when somebody claims one
    assert store.complete("k", owner="a", keep_s=60)
    assert claim(store, "b").state is DONE


def test_done_work_is_neither_renewed_nor_forgotten_and_its_end_stands(
    store: IdempotencyStore, clock: VirtualClock
) -> None:
    claim(store, "a")
    assert store.complete("k", owner="a", keep_s=60)
    assert store.complete("k", owner="a", keep_s=6000)
    assert not store.renew("k", owner="a", lease_s=6000)
    assert not store.forget("k", owner="a")
    clock.advance(60)
    assert claim(store, "b").state is CLAIMED


def test_a_key_with_another_payload_is_refused_in_progress_and_done(
    store: IdempotencyStore, clock: VirtualClock
) -> None:
    claim(store, "a")
    assert claim(store, "b", payload="q").state is MISMATCH
    store.complete("k", owner="a", keep_s=60)
    assert claim(store, "b", payload="q").state is MISMATCH
    clock.advance(60)
    assert claim(store, "b", payload="q").state is CLAIMED


def test_the_same_owner_may_ask_again_after_a_lost_answer(store: IdempotencyStore) -> None:
    claim(store, "a")
    assert claim(store, "a").state is CLAIMED
    store.complete("k", owner="a", keep_s=60)
    assert claim(store, "a").state is DONE


def test_of_many_that_ask_at_once_one_gets_it(store: IdempotencyStore) -> None:
    start = threading.Barrier(8)

    def ask(owner: int) -> list[ClaimState]:
        start.wait()
        return [claim(store, str(owner), key=f"k{number}").state for number in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for states in zip(*answers, strict=True):
        assert sorted(states, key=lambda each: each.value) == [BUSY] * 7 + [CLAIMED]


def test_many_that_find_no_file_make_it_together(tmp_path: Path) -> None:
    """Switching a new file to its log does not wait for the others by itself; see the busy timeout of SQLite."""
    start = threading.Barrier(8)

    def first_use(path: Path) -> ClaimState:
        opened = SQLiteIdempotency(path, SystemClock())
        start.wait()
        state = claim(opened, path.name).state
        opened.close()
        return state

    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            assert set(pool.map(first_use, [tmp_path / f"{number}.db"] * 8)) == {CLAIMED}


def test_what_is_over_leaves_no_trace(url: QueueURL, store: IdempotencyStore, clock: VirtualClock) -> None:
    for number in range(20):
        claim(store, "a", key=f"k{number}")
        store.complete(f"k{number}", owner="a", keep_s=60)
    claim(store, "a", key="dead worker's")
    clock.advance(60 + 3600)
    claim(store, "b", key="last")
    if url.scheme == "sqlite":
        with sqlite3.connect(url.path.removeprefix("/")) as connection:
            assert connection.execute("SELECT key FROM queuekit_idempotency").fetchall() == [("last",)]
        connection.close()
    else:
        assert list(store._space.entries) == ["last"]  # type: ignore[attr-defined]


def test_a_step_of_the_wall_clock_moves_no_claim(store: IdempotencyStore, clock: VirtualClock) -> None:
    claim(store, "a")
    clock.jump_wall(3600)
    assert claim(store, "b") == Claim(BUSY, 60.0)
    clock.jump_wall(-7200)
    clock.advance(60)
    assert claim(store, "b").state is CLAIMED


def test_a_leap_of_the_wall_clock_ends_no_claim_that_is_held(store: IdempotencyStore, clock: VirtualClock) -> None:
    claim(store, "a")
    clock.jump_wall(90_000)
    claim(store, "x", key="another")  # old keys are swept when somebody claims one
    assert claim(store, "b") == Claim(BUSY, 60.0)
    assert store.complete("k", owner="a", keep_s=60)


def test_a_child_after_a_fork_uses_the_store_afresh(store: IdempotencyStore) -> None:
    claim(store, "a")
    child = os.fork()
    if child == 0:
        try:
            code = 0 if claim(store, "b").state is BUSY and claim(store, "b", key="own").state is CLAIMED else 1
        except BaseException:  # noqa: BLE001 - the parent looks at the code
            code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.complete("k", owner="a", keep_s=60)


class OtherBoot(VirtualClock):
    def boot_id(self) -> str:
        return "after the power cut"


def test_a_claim_of_another_boot_has_run_out(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "done.db"
    before, after = SQLiteIdempotency(path, clock), SQLiteIdempotency(path, OtherBoot())
    claim(before, "a")
    claim(before, "a", key="done")
    before.complete("done", owner="a", keep_s=60)
    assert claim(after, "b").state is CLAIMED
    assert claim(after, "b", key="done").state is DONE
    before.close()
    after.close()


def test_the_file_is_made_for_its_owner_only(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "done.db"
    before = os.umask(0)
    try:
        store = SQLiteIdempotency(path, clock)
        claim(store, "a")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes.pop("done.db") == 0o600
    assert set(modes.values()) <= {0o600}


def test_a_file_that_is_there_keeps_its_mode_and_its_tables(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    store = SQLiteIdempotency(path, clock)
    claim(store, "a")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    store.close()
    connection.close()


def test_the_mark_can_be_written_with_the_work_in_one_transaction(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "app.db"
    store = SQLiteIdempotency(path, clock)
    assert isinstance(store, Transactional)
    claim(store, "a")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    assert store.complete_in(connection, "k", owner="a", keep_s=60)
    connection.execute("ROLLBACK")
    assert claim(store, "b").state is BUSY
    connection.execute("BEGIN")
    assert store.complete_in(connection, "k", owner="a", keep_s=60)
    connection.execute("COMMIT")
    assert claim(store, "b").state is DONE
    assert not store.complete_in(connection, "k", owner="b", keep_s=60)
    with pytest.raises(TypeError, match=r"a sqlite3.Connection to app.db and got object"):
        store.complete_in(object(), "k", owner="a", keep_s=60)
    connection.close()
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://host", "a memory store's URL is memory://"),
        ("memory://?spice=1", "a memory store's URL is memory://"),
        ("sqlite:///done.db?queue=x", "takes no options, and has queue"),
        ("sqlite:///:memory:", "SQLite's memory"),
    ],
)
def test_a_url_that_cannot_be_a_store_is_refused_before_any_io(url: str, said: str) -> None:
    with pytest.raises(InvalidURLError, match=said):
        Opener(SystemClock()).open_store(QueueURL.parse(url))


def test_a_scheme_without_a_store_names_those_that_have_one() -> None:
    with pytest.raises(UnknownSchemeError, match="no idempotency store for scheme 'sqlit'; did you mean 'sqlite'"):
        Opener(SystemClock()).open_store(QueueURL.parse("sqlit:///x"))


@pytest.fixture
def file(tmp_path: Path, clock: VirtualClock) -> Iterator[tuple[Path, SQLiteIdempotency]]:
    path = tmp_path / "done.db"
    opened = SQLiteIdempotency(path, clock)
    yield path, opened
    opened.close()


def test_a_file_that_was_replaced_is_not_written_any_more(
    file: tuple[Path, SQLiteIdempotency], clock: VirtualClock
) -> None:
    path, store = file
    claim(store, "a")
    for each in path.parent.iterdir():
        each.unlink()
    other = SQLiteIdempotency(path, clock)
    assert claim(other, "b").state is CLAIMED
    assert claim(store, "a").state is BUSY, "both ask one file"
    other.close()


def test_on_a_file_of_busy_queues_the_store_takes_its_turn(file: tuple[Path, SQLiteIdempotency]) -> None:
    path, store = file
    claim(store, "a", key="first")
    assert not path.with_name("done.db-turn").exists(), "beside a database without queues nothing is made"
    queues, done = Turns(path), threading.Event()

    def ask() -> None:
        claim(store, "a")
        done.set()

    with queues.taken(0):
        asking = threading.Thread(target=ask)
        asking.start()
        assert not done.wait(0.05), "a queue's writer has the turn"
    assert done.wait(20)
    asking.join()
    store.close()
    queues.close()


def test_a_store_writes_on_when_nobody_gives_it_a_turn(
    file: tuple[Path, SQLiteIdempotency], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = file
    monkeypatch.setattr(_turns, "PATIENCE_S", 0.02)
    queues = Turns(path)
    with queues.taken(0):
        assert claim(store, "a").state is CLAIMED
    queues.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_threads_of_a_forked_child_share_one_fresh_connection(file: tuple[Path, SQLiteIdempotency]) -> None:
    _, store = file
    claim(store, "a")
    with store._here().lock:  # as if another thread of the parent was in the midst of a claim
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException), ThreadPoolExecutor(4) as pool:
                states = {each.state for each in pool.map(lambda each: claim(store, each), "bcde")}
                code = 0 if states == {BUSY} and len(store._processes) == 2 else 2
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
