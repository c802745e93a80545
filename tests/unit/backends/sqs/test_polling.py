# SPDX-License-Identifier: Apache-2.0
"""A poll that nobody waits for any more gives back what it brings."""

import os
import threading

import pytest

from queuekit.backend import SystemClock
from queuekit.backends.sqs._polling import Polls

LIMIT_S = 20.0


def test_what_a_poll_brings_is_returned_and_what_it_raises_is_raised() -> None:
    polls: Polls[str] = Polls(SystemClock())
    kept = list[str]()
    assert polls.run(lambda: "found", kept.append) == "found"
    with pytest.raises(ZeroDivisionError):
        polls.run(lambda: str(1 // 0), kept.append)
    assert polls.run(lambda: "again", kept.append) == "again"
    polls.close()
    assert kept == []


def test_one_thread_serves_polls_that_follow_each_other_and_ends_at_close() -> None:
    polls: Polls[int] = Polls(SystemClock())
    threads = {polls.run(threading.get_ident, lambda _: None) for _ in range(5)}
    assert len(threads) == 1
    (thread,) = polls._threads
    polls.close()
    polls.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert polls.run(lambda: 1, lambda _: None) is None, "closed"


def test_close_wakes_who_waits_and_what_comes_afterwards_is_given_back() -> None:
    polls: Polls[str] = Polls(SystemClock())
    begun, answered, given_back = threading.Event(), threading.Event(), threading.Event()
    back, results = list[str](), list[str | None]()

    def call() -> str:
        begun.set()
        answered.wait(LIMIT_S)
        return "late"

    def give_back(found: str) -> None:
        back.append(found)
        given_back.set()

    waiting = threading.Thread(target=lambda: results.append(polls.run(call, give_back)))
    waiting.start()
    assert begun.wait(LIMIT_S)
    polls.close()
    waiting.join(LIMIT_S)
    assert results == [None]
    assert back == []
    answered.set()
    assert given_back.wait(LIMIT_S)
    assert back == ["late"]


def test_polls_at_the_same_time_do_not_wait_for_each_other() -> None:
    polls: Polls[int] = Polls(SystemClock())
    together = threading.Barrier(3, timeout=LIMIT_S)
    threads = [threading.Thread(target=lambda: polls.run(together.wait, lambda _: None)) for _ in range(2)]
    for each in threads:
        each.start()
    together.wait()
    for each in threads:
        each.join(LIMIT_S)
    polls.close()
    assert not any(each.is_alive() for each in threads)


def test_after_a_fork_close_waits_for_no_lock_of_the_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    polls: Polls[int] = Polls(SystemClock())
    held, free = threading.Event(), threading.Event()

    def hold(lock: threading.Condition) -> None:
        with lock:
            held.set()
            free.wait(LIMIT_S)

    holding = threading.Thread(target=hold, args=(polls._changed,))
    holding.start()
    assert held.wait(LIMIT_S)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    closing = threading.Thread(target=polls.close, daemon=True)
    closing.start()
    closing.join(LIMIT_S / 2)
    closed = not closing.is_alive()
    free.set()
    holding.join(LIMIT_S)
    assert closed


def test_a_thread_that_the_system_refuses_leaves_polls_that_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    polls: Polls[int] = Polls(SystemClock())

    def refuse(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            polls.run(lambda: 1, lambda _: None)
    assert polls.run(lambda: 2, lambda _: None) == 2
    polls.close()


def test_a_brief_poll_runs_on_the_caller_s_thread_and_none_runs_after_close() -> None:
    polls: Polls[int] = Polls(SystemClock())
    assert polls.run_here(threading.get_ident, lambda _: None) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        polls.run_here(lambda: 1 // 0, lambda _: None)
    polls.close()
    assert polls.run_here(threading.get_ident, lambda _: None) is None


def test_what_a_brief_poll_brings_after_close_is_given_back() -> None:
    polls: Polls[str] = Polls(SystemClock())
    back = list[str]()

    def call() -> str:
        polls.close()
        return "late"

    assert polls.run_here(call, back.append) is None
    assert back == ["late"]
