# SPDX-License-Identifier: Apache-2.0
"""What the contract cannot say of memory: its clock, its one shared table, forks, bounds and figures."""

import gc
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    Action,
    Duplicate,
    ErrorClass,
    ErrorCode,
    InvalidURLError,
    OutgoingMessage,
    QueueStats,
    Rejected,
    Settled,
    Settlement,
    Unsupported,
)
from queuekit.testing import VirtualClock, reset_memory


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def open_queue(clock: VirtualClock) -> Iterator[Callable[..., Any]]:
    reset_memory()
    opener = Opener(clock)
    yield lambda url="memory://jobs", **options: opener.open(QueueURL.parse(url), options)
    reset_memory()


@pytest.fixture
def jobs(open_queue: Callable[..., Any]) -> Any:
    return open_queue()


@pytest.fixture
def threads(clock: VirtualClock) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
        clock.advance(1000)  # so that a test which failed does not hang
        reset_memory()


def send(queue: Any, *names: str, **fields: Any) -> Sequence[Any]:
    return queue.send([OutgoingMessage(name, name.encode(), **fields) for name in names], timeout_s=1)


def take(queue: Any, count: int = 10, *, lease_s: float = 60.0, wait_s: float = 0.0) -> Sequence[Any]:
    return queue.receive(max_messages=count, wait_s=wait_s, lease_s=lease_s)


def settle(queue: Any, deliveries: Sequence[Any], action: Action = Action.ACK, **fields: Any) -> Sequence[Any]:
    return queue.settle([Settlement(each.handle, action, **fields) for each in deliveries], timeout_s=1)


def ids(messages: Sequence[Any]) -> list[str]:
    return [each.message_id for each in messages]


def test_a_lease_is_over_at_its_end_and_not_before(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "a")
    [first] = take(jobs, lease_s=10)
    assert first.lease_until == clock.monotonic() + 10
    clock.advance(9.999)
    assert take(jobs) == []
    clock.advance(0.001)
    [second] = take(jobs)
    assert (second.message_id, second.attempt) == ("a", 2)
    assert settle(jobs, [first]) == [LEASE_LOST]
    assert settle(jobs, [second]) == [SETTLED]


def test_the_holder_of_an_ended_lease_settles_nothing_even_when_nobody_took_it(
    jobs: Any, clock: VirtualClock
) -> None:
    send(jobs, "a")
    held = take(jobs, lease_s=10)
    clock.advance(10)
    assert settle(jobs, held) == [LEASE_LOST]
    assert jobs.stats().ready == 1


def test_leases_of_one_receive_that_were_extended_apart_end_apart(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "shortened", "kept", "extended")
    shortened, _, extended = take(jobs, lease_s=10)
    now = clock.monotonic()
    assert settle(jobs, [shortened], Action.EXTEND, lease_s=5) == [Settled(lease_until=now + 5)]
    assert settle(jobs, [extended], Action.EXTEND, lease_s=20) == [Settled(lease_until=now + 20)]
    clock.advance(5)
    assert ids(take(jobs, lease_s=100)) == ["shortened"]
    clock.advance(5)
    assert ids(take(jobs, lease_s=100)) == ["kept"]
    clock.advance(9)
    assert take(jobs) == []
    clock.advance(1)
    assert ids(take(jobs)) == ["extended"]


def test_a_retried_message_comes_back_in_its_place(jobs: Any) -> None:
    send(jobs, "a", "b", "c")
    settle(jobs, take(jobs, 1), Action.RETRY)
    assert [(each.message_id, each.attempt) for each in take(jobs)] == [("a", 2), ("b", 1), ("c", 1)]


def test_priority_comes_before_order_of_sending(jobs: Any) -> None:
    send(jobs, "low-1", "low-2")
    send(jobs, "high", priority=9)
    send(jobs, "low-3")
    assert ids(take(jobs, 3)) == ["high", "low-1", "low-2"]
    assert ids(take(jobs, 3)) == ["low-3"]


def test_only_the_oldest_of_a_key_can_be_taken_whatever_its_state(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "first", ordering_key="k", delay_s=5)
    send(jobs, "second", ordering_key="k", priority=9)
    assert jobs.stats() == QueueStats(ready=0, delayed=2, leased=0, dead=0, done=0)
    clock.advance(5)
    first = take(jobs)
    assert ids(first) == ["first"]
    settle(jobs, first, Action.RETRY, delay_s=3)
    assert take(jobs) == []
    clock.advance(3)
    first = take(jobs, lease_s=10)
    clock.advance(10)
    first = take(jobs)
    assert ids(first) == ["first"]
    settle(jobs, first)
    assert ids(take(jobs)) == ["second"]


def test_a_successor_keeps_its_own_delay_when_it_comes_forward(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "first", ordering_key="k")
    send(jobs, "second", ordering_key="k", delay_s=30)
    settle(jobs, take(jobs))
    assert take(jobs) == []
    assert jobs.stats().delayed == 1
    clock.advance(30)
    assert ids(take(jobs)) == ["second"]


@pytest.mark.parametrize("how", ["cancel", "purge", "dead"])
def test_a_key_goes_on_when_its_first_is_removed(jobs: Any, how: str) -> None:
    send(jobs, "first", ordering_key="k", delay_s=0 if how == "dead" else 60)
    if how == "purge":
        jobs.purge()
    send(jobs, "second", "third", ordering_key="k")
    if how == "cancel":
        assert jobs.cancel("first") is True
    if how == "dead":
        settle(jobs, take(jobs), Action.DEAD, dead=OutgoingMessage("first", b""))
    second = take(jobs)
    assert ids(second) == ["second"]
    settle(jobs, second)
    assert ids(take(jobs)) == ["third"]


def test_cancelling_in_the_middle_of_a_key_leaves_its_order(jobs: Any) -> None:
    send(jobs, "first", "second", "third", ordering_key="k")
    held = take(jobs)
    assert jobs.cancel("second") is True
    assert jobs.stats() == QueueStats(ready=0, delayed=1, leased=1, dead=0, done=0)
    settle(jobs, held)
    assert ids(take(jobs)) == ["third"]


def test_what_was_tried_once_cannot_be_cancelled(jobs: Any) -> None:
    send(jobs, "a")
    settle(jobs, take(jobs), Action.RETRY)
    assert jobs.cancel("a") is False
    assert ids(take(jobs)) == ["a"]


def test_a_purge_spares_what_is_leased_and_it_can_still_be_settled(jobs: Any) -> None:
    send(jobs, "leased", ordering_key="k")
    send(jobs, "held", ordering_key="k")
    held = take(jobs)
    send(jobs, "plain")
    send(jobs, "delayed", delay_s=5)
    assert jobs.purge() == 3
    assert jobs.stats() == QueueStats(ready=0, delayed=0, leased=1, dead=0, done=0)
    settle(jobs, held, Action.RETRY)
    assert ids(take(jobs)) == ["leased"]


@pytest.mark.parametrize("handle", [0, 1, -1, True, 1.0, "", "x", b"x", None, (), [], {}, object(), 10**40])
def test_a_handle_that_was_never_ours_is_a_lost_lease(jobs: Any, handle: Any) -> None:
    send(jobs, "a")
    [held] = take(jobs)
    outcomes = jobs.settle([Settlement(handle, Action.ACK), Settlement(held.handle, Action.ACK)], timeout_s=1)
    assert outcomes == [LEASE_LOST, SETTLED]


def test_equal_seeds_do_not_make_equal_handles(jobs: Any) -> None:
    other = Opener(VirtualClock()).open(QueueURL.parse("memory://other"))
    send(jobs, "a")
    send(other, "b")
    [held], [others] = take(jobs), take(other)
    assert settle(other, [held], Action.DEAD, dead=OutgoingMessage("a", b"")) == [LEASE_LOST]
    assert settle(other, [others]) == [SETTLED]


def test_a_dead_settlement_without_a_letter_keeps_the_message(jobs: Any) -> None:
    send(jobs, "a")
    held = take(jobs)
    [outcome] = settle(jobs, held, Action.DEAD)
    assert isinstance(outcome, Unsupported)
    assert settle(jobs, held) == [SETTLED]


def test_the_dead_letter_queue_has_none_of_its_own(open_queue: Callable[..., Any]) -> None:
    dead = open_queue("memory://jobs.dead")
    send(dead, "a", "b")
    first, second = take(dead)
    batch = [
        Settlement(first.handle, Action.DEAD, dead=OutgoingMessage("a", b"")),
        Settlement(second.handle, Action.ACK),
    ]
    outcomes = dead.settle(batch, timeout_s=1)
    assert isinstance(outcomes[0], Unsupported)
    assert outcomes[1] == SETTLED
    assert settle(dead, [first]) == [SETTLED]
    assert open_queue("memory://jobs.dead.dead").exists() is False


def test_redrive_takes_one_dead_letter_for_each_entry_with_its_id(open_queue: Callable[..., Any]) -> None:
    jobs, dead = open_queue(), open_queue("memory://jobs.dead")
    send(dead, "same", "same", "leased", "other")
    take(dead, 2)
    settle(dead, take(dead, 2)[1:], Action.RETRY)
    entries = [OutgoingMessage(name, b"") for name in ("same", "other", "leased", "other")]
    assert dead.redrive(entries, timeout_s=1) == [LEASE_LOST, SETTLED, LEASE_LOST, LEASE_LOST]
    assert ids(take(jobs)) == ["other"]
    assert jobs.stats().dead == 3
    assert all(isinstance(each, Unsupported) for each in jobs.redrive(entries, timeout_s=1))


def test_redrive_ignores_the_window_of_the_source(open_queue: Callable[..., Any]) -> None:
    jobs, dead = open_queue(), open_queue("memory://jobs.dead")
    send(jobs, "a", dedup_id="once")
    settle(jobs, take(jobs), Action.DEAD, dead=OutgoingMessage("a", b"", dedup_id="once"))
    assert dead.redrive([OutgoingMessage("a", b"", dedup_id="once")], timeout_s=1) == [SETTLED]
    assert ids(take(jobs)) == ["a"]


def test_a_dedup_id_is_known_through_its_window_and_then_forgotten(jobs: Any, clock: VirtualClock) -> None:
    assert send(jobs, "a", "b", dedup_id="x") == [Accepted("a"), Duplicate("b", "a")]
    settle(jobs, take(jobs))
    clock.advance(3599.999)
    assert send(jobs, "c", dedup_id="x") == [Duplicate("c", "a")]
    clock.advance(0.001)
    assert send(jobs, "d", dedup_id="x") == [Accepted("d")]
    assert send(jobs, "e", dedup_id="x") == [Duplicate("e", "d")]


def test_remembered_dedup_ids_are_bounded_by_the_window(open_queue: Callable[..., Any], clock: VirtualClock) -> None:
    jobs = open_queue(dedup_window=timedelta(seconds=10))
    for number in range(200):
        send(jobs, "m", dedup_id=f"id-{number}")
        clock.advance(1)
    queue = jobs._find()
    assert len(queue._dedup) == len(queue._dedup_ends) == 10


def test_a_window_of_zero_is_no_capability(open_queue: Callable[..., Any]) -> None:
    assert open_queue("memory://jobs?dedup_window=0s").capabilities.dedup_window_s == 0


def test_a_batch_that_does_not_fit_is_refused_whole_and_remembers_nothing(open_queue: Callable[..., Any]) -> None:
    jobs = open_queue(max_messages=2)
    full = ErrorClass(ErrorCode.QUEUE_FULL, retryable=True, scope="queue", sent="no")
    send(jobs, "a")
    held = take(jobs)
    batch = [OutgoingMessage("b", b"", dedup_id="b"), OutgoingMessage("c", b"")]
    assert jobs.send(batch, timeout_s=1) == [Rejected(full, "b"), Rejected(full, "c")]
    settle(jobs, held)
    assert jobs.send(batch, timeout_s=1) == [Accepted("b"), Accepted("c")]
    assert send(jobs, "b-again", dedup_id="b") == [Duplicate("b-again", "b")]


def test_settled_leases_do_not_gather_under_one_long_lease(jobs: Any) -> None:
    for _ in range(50):
        send(jobs, *("m" * 100))
        settle(jobs, take(jobs, 100, lease_s=43200))
    queue = jobs._find()
    assert queue._handles_in_ends <= 1100
    assert not queue.entries
    assert not queue.leases


def test_extensions_do_not_gather(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "a")
    held = take(jobs, lease_s=43200)
    for _ in range(3000):
        settle(jobs, held, Action.EXTEND, lease_s=43200)
        clock.advance(1)
    queue = jobs._find()
    assert queue._handles_in_ends <= 1100
    assert settle(jobs, held) == [SETTLED]


def test_sweeping_spares_leases_that_live(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "kept", "extended")
    _, extended = take(jobs, lease_s=100)
    settle(jobs, [extended], Action.EXTEND, lease_s=200)
    for _ in range(20):
        send(jobs, *("m" * 100))
        settle(jobs, take(jobs, 100, lease_s=50))
    clock.advance(100)
    assert ids(take(jobs, lease_s=1000)) == ["kept"]
    clock.advance(100)
    assert ids(take(jobs)) == ["extended"]


def test_a_wall_clock_set_back_delays_nothing_that_had_no_delay(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "plain")
    send(jobs, "first", "second", ordering_key="k")
    taken = take(jobs, lease_s=10)
    clock.jump_wall(-3600)
    clock.advance(10)
    assert settle(jobs, taken) == [LEASE_LOST, LEASE_LOST]
    taken = take(jobs)
    assert ids(taken) == ["plain", "first"]
    settle(jobs, taken)
    assert ids(take(jobs)) == ["second"]


def test_a_wall_clock_set_forward_ends_no_lease(jobs: Any, clock: VirtualClock) -> None:
    send(jobs, "a")
    held = take(jobs, lease_s=10)
    clock.jump_wall(3600)
    assert take(jobs) == []
    assert settle(jobs, held) == [SETTLED]


def blocked(threads: ThreadPoolExecutor, clock: VirtualClock, queue: Any) -> Future[Sequence[Any]]:
    waiting = threads.submit(take, queue, wait_s=100.0)
    clock.wait_for_waiters(1)
    return waiting


def test_a_waiting_receive_wakes_for_a_send(jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor) -> None:
    waiting = blocked(threads, clock, jobs)
    send(jobs, "a")
    assert ids(waiting.result(20)) == ["a"]


def test_a_waiting_receive_wakes_for_the_end_of_a_lease(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    send(jobs, "a")
    take(jobs, lease_s=10)
    waiting = blocked(threads, clock, jobs)
    clock.advance(10)
    assert ids(waiting.result(20)) == ["a"]


def test_a_waiting_receive_wakes_for_a_lease_that_began_while_it_waited(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    waiting = blocked(threads, clock, jobs)
    with jobs._space.lock:  # sent and taken before the one that waits can look
        send(jobs, "a")
        take(jobs, lease_s=10)
    clock.wait_for_waiters(1)
    clock.advance(10)
    assert ids(waiting.result(20)) == ["a"]


def test_a_waiting_receive_wakes_for_a_lease_that_is_shortened(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    send(jobs, "a")
    held = take(jobs, lease_s=60)
    waiting = blocked(threads, clock, jobs)
    settle(jobs, held, Action.EXTEND, lease_s=5)
    clock.wait_for_waiters(1)
    clock.advance(5)
    assert ids(waiting.result(20)) == ["a"]


def test_a_waiting_receive_wakes_for_an_earlier_due_time(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    send(jobs, "later", delay_s=50)
    waiting = blocked(threads, clock, jobs)
    send(jobs, "sooner", delay_s=5)
    clock.wait_for_waiters(1)
    clock.advance(5)
    assert ids(waiting.result(20)) == ["sooner"]


@pytest.mark.parametrize("action", [Action.RETRY, Action.RELEASE])
def test_a_waiting_receive_wakes_for_what_is_given_back(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor, action: Action
) -> None:
    send(jobs, "a")
    held = take(jobs)
    waiting = blocked(threads, clock, jobs)
    settle(jobs, held, action)
    [again] = waiting.result(20)
    assert again.attempt == (2 if action is Action.RETRY else 1)


def test_a_waiting_receive_wakes_when_a_key_comes_forward(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    send(jobs, "first", "second", ordering_key="k")
    held = take(jobs)
    waiting = blocked(threads, clock, jobs)
    settle(jobs, held)
    assert ids(waiting.result(20)) == ["second"]


def test_a_waiting_receive_wakes_for_a_dead_letter_and_for_a_redrive(
    open_queue: Callable[..., Any], clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    jobs, dead = open_queue(), open_queue("memory://jobs.dead")
    send(jobs, "a")
    held = take(jobs)
    waiting = blocked(threads, clock, dead)
    settle(jobs, held, Action.DEAD, dead=OutgoingMessage("a", b""))
    letters = waiting.result(20)
    assert ids(letters) == ["a"]
    settle(dead, letters, Action.RELEASE)
    waiting = blocked(threads, clock, jobs)
    dead.redrive([OutgoingMessage("a", b"")], timeout_s=1)
    assert ids(waiting.result(20)) == ["a"]


@pytest.mark.parametrize("how", ["interrupt", "close", "delete"])
def test_a_waiting_receive_ends_with_nothing(
    jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor, how: str
) -> None:
    waiting = blocked(threads, clock, jobs)
    getattr(jobs, how)()
    assert waiting.result(20) == []


def test_an_interrupt_ends_the_receives_of_its_own_backend_only(
    open_queue: Callable[..., Any], clock: VirtualClock, threads: ThreadPoolExecutor
) -> None:
    mine, theirs = open_queue(), open_queue()
    waiting = [threads.submit(take, each, wait_s=100.0) for each in (mine, theirs)]
    clock.wait_for_waiters(2)
    mine.interrupt()
    assert waiting[0].result(20) == []
    clock.wait_for_waiters(1)
    send(theirs, "a")
    assert ids(waiting[1].result(20)) == ["a"]


def test_a_receive_after_close_does_not_wait(jobs: Any) -> None:
    jobs.close()
    assert take(jobs, wait_s=100.0) == []


def test_waiting_for_a_change_takes_nothing(jobs: Any, clock: VirtualClock, threads: ThreadPoolExecutor) -> None:
    assert jobs.wait_for_change(0) is False
    waiting = threads.submit(jobs.wait_for_change, 100.0)
    clock.wait_for_waiters(1)
    send(jobs, "a", delay_s=5)
    clock.wait_for_waiters(1)
    clock.advance(5)
    assert waiting.result(20) is True
    assert jobs.stats() == QueueStats(ready=1, delayed=0, leased=0, dead=0, done=0)


def test_peek_goes_on_behind_its_cursor_whatever_was_removed(jobs: Any) -> None:
    send(jobs, "a", "b", "c", "d")
    first = jobs.peek(limit=2)
    settle(jobs, take(jobs, 3))
    rest = jobs.peek(limit=10, after=first[-1].cursor)
    assert ids(first) == ["a", "b"]
    assert ids(rest) == ["d"]


def test_spaces_share_nothing(open_queue: Callable[..., Any]) -> None:
    one, two = open_queue("memory://jobs?space=one"), open_queue("memory://jobs?space=two")
    send(one, "a")
    assert take(two) == []
    assert ids(take(one)) == ["a"]


def test_asking_makes_no_queue_and_deleting_forgets_it(open_queue: Callable[..., Any]) -> None:
    jobs = open_queue()
    jobs.stats()
    jobs.peek(limit=1)
    jobs.probe()
    assert jobs.exists() is False
    send(jobs, "a", dedup_id="x")
    settle(jobs, take(jobs), Action.DEAD, dead=OutgoingMessage("a", b""))
    jobs.delete()
    assert jobs.exists() is False
    assert open_queue("memory://jobs.dead").exists() is False
    assert send(jobs, "a", dedup_id="x") == [Accepted("a")]


def test_reset_leaves_open_backends_usable(jobs: Any) -> None:
    send(jobs, "a")
    [held] = take(jobs)
    send(jobs, "b")
    reset_memory()
    assert jobs.stats() == QueueStats(ready=0, delayed=0, leased=0, dead=0, done=0)
    send(jobs, "c")
    assert settle(jobs, [held]) == [LEASE_LOST]
    assert ids(take(jobs)) == ["c"]


@pytest.mark.parametrize("url", ["memory://user@jobs", "memory://user:s3cr3t@jobs", "memory://jobs/more"])
def test_a_url_with_parts_that_mean_nothing_is_refused(open_queue: Callable[..., Any], url: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        open_queue(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_size_counts_utf8_and_does_not_confuse_equal_looking_metadata(jobs: Any) -> None:
    assert jobs.size(OutgoingMessage("id", b"12345", {"ä": "b"}, {"key": "€"})) == 5 + 3 + 6
    assert jobs.size(OutgoingMessage("id", b"", {}, {"a": "bc"})) == 3
    assert jobs.size(OutgoingMessage("id", b"1")) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_has_the_queue_and_a_lock_that_is_free(jobs: Any) -> None:
    send(jobs, "a", "b")
    held = take(jobs, 1)
    inside, leave, left = threading.Event(), threading.Event(), list[bool]()

    def hold_the_lock() -> None:
        with jobs._space.lock:
            inside.set()
            leave.wait(20)
            left.append(True)

    def use_the_queue() -> None:
        if ids(take(jobs)) == ["b"] and settle(jobs, held) == [SETTLED] and send(jobs, "c") and left:
            os._exit(0)

    holder = threading.Thread(target=hold_the_lock)
    holder.start()
    inside.wait(20)
    releaser = threading.Timer(0.05, leave.set)  # the fork waits for the lock until then
    releaser.start()
    child = os.fork()
    if child == 0:
        try:
            user = threading.Thread(target=use_the_queue, daemon=True)
            user.start()
            user.join(10)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    holder.join()
    releaser.join()
    assert jobs.stats() == QueueStats(ready=1, delayed=0, leased=1, dead=0, done=0)


def test_a_closed_and_forgotten_queue_holds_no_memory(open_queue: Callable[..., Any]) -> None:
    jobs = open_queue()
    send(jobs, *("m" * 1000))
    settle(jobs, take(jobs, 1000))
    jobs.delete()
    gc.collect()
    assert not jobs._space.queues


def test_many_threads_lose_and_double_nothing(open_queue: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    jobs = open_queue()
    sent = [f"{producer}-{number}" for producer in range(2) for number in range(2000)]
    got: list[str] = []

    def produce(names: list[str]) -> None:
        for start in range(0, len(names), 50):
            send(jobs, *names[start : start + 50])

    def consume() -> None:
        while len(got) < len(sent):
            taken = take(jobs, 7)
            assert settle(jobs, taken) == [SETTLED] * len(taken)
            got.extend(ids(taken))

    running = [threads.submit(produce, sent[half::2]) for half in (0, 1)] + [threads.submit(consume) for _ in (0, 1)]
    for each in running:
        each.result(30)
    assert sorted(got) == sorted(sent)
