# SPDX-License-Identifier: Apache-2.0
"""Clients of a process: its own, and only closed by it."""

import os
import threading
from collections.abc import Callable
from itertools import count

import pytest

from queuekit.backends._per_process import PerProcess

HERE = os.getpid()


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Go on as another process would: with all that this one had."""

    def becomes(process: int) -> None:
        monkeypatch.setattr(os, "getpid", lambda: process)

    return becomes


class Maker:
    def __init__(self) -> None:
        self.numbers = count(1)
        self.closed: list[str] = []
        self.error: Exception | None = None

    def make(self) -> str:
        if self.error is not None:
            raise self.error
        return f"client {next(self.numbers)}"

    def held(self) -> PerProcess[str]:
        return PerProcess(self.make, self.closed.append)


def test_one_is_made_for_all_calls_of_a_process() -> None:
    held = Maker().held()
    assert [held.get(), held.get()] == ["client 1", "client 1"]


def test_a_child_makes_its_own_and_closes_only_that(fork: Callable[[int], None]) -> None:
    maker = Maker()
    held = maker.held()
    held.get()
    fork(HERE + 1)
    assert held.get() == "client 2"
    held.close()
    assert maker.closed == ["client 2"]


def test_a_child_that_could_not_make_its_own_is_not_given_its_parents(fork: Callable[[int], None]) -> None:
    maker = Maker()
    held = maker.held()
    held.get()
    fork(HERE + 1)
    maker.error = ConnectionError()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            held.get()
    maker.error = None
    assert held.get() == "client 2"


def test_a_thread_of_a_child_is_not_given_its_parents_while_another_one_makes_theirs(
    fork: Callable[[int], None],
) -> None:
    making, go_on, got = threading.Event(), threading.Event(), []

    def make() -> str:
        if os.getpid() != HERE:
            making.set()
            go_on.wait()
            return "the child's"
        return "the parent's"

    held = PerProcess(make, lambda _: None)
    held.get()
    fork(HERE + 1)
    threads = [threading.Thread(target=lambda: got.append(held.get())) for _ in range(2)]
    threads[0].start()
    assert making.wait(10)
    threads[1].start()
    threads[1].join(0.05)  # time for a wrong answer
    go_on.set()
    for each in threads:
        each.join()
    assert got == ["the child's"] * 2


def test_a_fork_while_a_thread_makes_one_leaves_the_child_nothing_to_wait_for(fork: Callable[[int], None]) -> None:
    making, go_on = threading.Event(), threading.Event()

    def make() -> str:
        if os.getpid() == HERE:
            making.set()
            go_on.wait()
        return "made"

    held = PerProcess(make, lambda _: None)
    parents = threading.Thread(target=held.get)
    parents.start()
    assert making.wait(10)
    fork(HERE + 1)
    got: list[str] = []
    childs = threading.Thread(target=lambda: got.append(held.get()), daemon=True)
    childs.start()
    childs.join(10)
    go_on.set()
    parents.join()
    assert got == ["made"]


def test_what_is_silent_is_replaced_once_and_goes_on_until_it_is_closed() -> None:
    maker = Maker()
    held = maker.held()
    silent = held.get()
    held.renew(silent)
    assert held.get() == "client 2"
    held.renew(silent)
    assert held.get() == "client 2"
    assert maker.closed == []
    held.close()
    held.close()
    assert maker.closed == ["client 1", "client 2"]


def test_a_line_that_stays_dead_does_not_leave_more_and_more_open() -> None:
    maker = Maker()
    held = maker.held()
    for _ in range(20):
        held.renew(held.get())
    assert len(maker.closed) >= 10
    assert maker.closed[0] == "client 1"
    held.close()
    assert len(maker.closed) == 20
