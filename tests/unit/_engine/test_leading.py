# SPDX-License-Identifier: Apache-2.0
"""Quick handlers are run by one thread, and nobody waits behind one that is slow for once."""

import threading
from collections.abc import Iterator

import pytest

from queuekit import App, Producer
from queuekit._engine.held import Held
from queuekit._engine.leading import Lead
from queuekit._engine.receiving import Receiver
from queuekit._engine.tally import Handling

LIMIT_S = 20.0


def after(*lengths_s: float) -> Handling:
    handling = Handling()
    for number, each in enumerate(lengths_s, 1):
        handling.add(each)
        if number % 32 == 0:
            handling.sum_up()
    handling.sum_up()
    return handling


def test_handlers_are_quick_once_most_of_many_were() -> None:
    assert not after(*[1e-6] * 64).quick
    assert after(*[1e-6] * 512).quick


def test_some_slow_ones_in_a_row_end_it_and_one_alone_does_not() -> None:
    assert after(*[1e-6] * 543, 5.0).quick
    assert not after(*[1e-6] * 512, *[0.001] * 32).quick


def test_handlers_that_wait_a_tenth_of_a_millisecond_for_something_are_not_quick() -> None:
    assert not after(*[1e-4] * 1000).quick


def test_a_clock_that_stands_still_says_nothing_about_the_pace() -> None:
    handling = after(*[0.0] * 1000)
    assert not handling.quick
    assert handling.read().count == 1000


def test_lengths_are_summed_up_with_none_left_out() -> None:
    timing = after(*[0.5] * 33, -1.0, 2.0).read()
    assert (timing.count, timing.total.total_seconds(), timing.longest.total_seconds()) == (35, 18.5, 2.0)


def test_while_handlers_are_quick_only_the_leader_takes() -> None:
    lead = Lead(after(*[1e-6] * 512))
    assert lead.may_take(1)
    lead.leader = 1
    assert lead.may_take(1)
    assert not lead.may_take(2)
    slow = Lead(after(0.01))
    slow.leader = 1
    assert slow.may_take(2)


def test_as_many_threads_are_woken_as_will_take_something() -> None:
    assert Lead(after(0.01)).call(7) == 7
    lead = Lead(after(*[1e-6] * 512))
    assert lead.call(7) == 1  # nobody leads yet
    lead.leader = 1
    assert lead.call(7) == 0  # one was woken and has not come
    lead.called = False
    assert lead.call(7) == 1  # the leader may be in a slow handler: somebody has to look
    lead.called, lead.deputy = False, True
    assert lead.call(7) == 0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of 8 messages, whose handlers were quick up to now."""
    app = App("memory://")

    @app.handler("q")
    def handle(text: str) -> None: ...

    with Producer("memory://q", payload=str) as producer:
        producer.send_many([str(number) for number in range(8)]).raise_for_failures()
    intake = app._plan_queue("q").intake
    for _ in range(512):
        intake.receiver.control.settles.handled(1e-6)
    yield intake.receiver
    intake.receiver.stop_polling()
    intake.close(timeout_s=1.0)
    app.close()


def test_every_free_thread_gets_a_message_when_those_before_do_not_come_back(receiver: Receiver) -> None:
    taken: list[Held] = []
    changed = threading.Condition()

    def take_one_and_stay() -> None:
        held = receiver.take_in_turn()
        with changed:
            taken.append(held)
            changed.notify_all()

    threads = [threading.Thread(target=take_one_and_stay, daemon=True) for _ in range(8)]
    for each in threads:
        each.start()
    with changed:
        assert changed.wait_for(lambda: len(taken) == 8, LIMIT_S), len(taken)
    assert {held.message.body for held in taken} == {str(number).encode() for number in range(8)}


def test_the_leader_takes_on_without_waiting_for_anybody(receiver: Receiver) -> None:
    first = receiver.take_in_turn()
    others = [receiver.take_in_turn() for _ in range(7)]
    assert len({held.message.body for held in (first, *others)}) == 8
