# SPDX-License-Identifier: Apache-2.0
"""What the emulator knows of queues and tasks, at times that are given: attempts, their ends, and the pace."""

from itertools import count
from typing import Any

import pytest

from queuekit.testing.emulators.cloud_tasks._attempts import Attempt, Ending
from queuekit.testing.emulators.cloud_tasks._book import Book
from queuekit.testing.emulators.cloud_tasks._messages import BASIC, Queue, Task, seconds_of
from queuekit.testing.emulators.cloud_tasks._pace import Pace
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused
from queuekit.testing.emulators.cloud_tasks._store import Forgetful

PLACE = "projects/shop/locations/here"
QUEUE = f"{PLACE}/queues/orders"
START = 1_700_000_000.0
DAY_S = 86_400


def book(**settings: Any) -> Book:
    """A book with one queue."""
    ids = count(1)
    made = Book(Forgetful(), lambda: str(next(ids)), lambda _url: True)
    made.create_queue(PLACE, Queue(name=QUEUE, **settings), START)
    return made


def add(made: Book, name: str = "", *, at: float = START) -> str:
    """A new task's name."""
    given = Task(name=f"{QUEUE}/tasks/{name}" if name else "", http_request={"url": "http://127.0.0.1:8080/"})
    task: str = made.create_task(QUEUE, given, BASIC, at).name
    return task


def retries(**given: Any) -> dict[str, Any]:
    wait = {"seconds": 10}
    return {"retry_config": {"min_backoff": wait, "max_backoff": wait, **given}}


def due(made: Book, now: float) -> list[Attempt]:
    return list(made.due(now))


def end(made: Book, attempt: Attempt, status: int, now: float) -> None:
    assert made.ended(attempt, Ending.answered(status), now)


def test_the_time_of_retries_counts_from_the_first_attempt() -> None:
    made = book(**retries(max_attempts=2, max_retry_duration={"seconds": 35}))
    add(made)
    ended = []
    for second in range(0, 120, 10):
        for attempt in due(made, START + second):
            end(made, attempt, 500, START + second)
            ended.append(second)
    assert ended == [0, 10, 20, 30, 40]


def test_a_task_that_was_run_by_hand_waits_from_then() -> None:
    made = book(**retries())
    name = add(made)
    _, attempt = made.run_task(name, BASIC, START)
    end(made, attempt, 500, START + 7)
    assert seconds_of(made.get_task(name, BASIC, START + 7).schedule_time) == START + 10


def test_what_is_run_by_hand_takes_nobodys_place_and_frees_none() -> None:
    made = book(rate_limits={"max_concurrent_dispatches": 1})
    names = [add(made) for _ in range(3)]
    _, forced = made.run_task(names[0], BASIC, START)
    (scheduled,) = due(made, START)
    end(made, forced, 200, START)
    assert due(made, START) == []
    end(made, scheduled, 200, START)
    assert len(due(made, START)) == 1


def test_a_task_with_two_attempts_under_way_waits_for_both() -> None:
    made = book(**retries())
    name = add(made)
    (first,) = due(made, START)
    _, second = made.run_task(name, BASIC, START)
    end(made, first, 500, START)
    assert due(made, START + 100) == []
    end(made, second, 500, START + 100)
    (third,) = due(made, START + 120)
    assert third.count == 3


def test_the_last_attempt_is_the_one_that_began_last() -> None:
    made = book(**retries())
    name = add(made)
    (first,) = due(made, START)
    _, second = made.run_task(name, BASIC, START + 1)
    end(made, second, 404, START + 2)
    end(made, first, 500, START + 3)
    task = made.get_task(name, BASIC, START + 3)
    assert task.last_attempt.response_status.code == Code.NOT_FOUND
    assert (task.dispatch_count, task.response_count) == (2, 2)
    assert seconds_of(task.first_attempt.dispatch_time) == START


def test_a_task_is_kept_for_thirty_one_days_and_no_longer() -> None:
    made = book(**retries())
    name = add(made)
    (attempt,) = due(made, START)
    end(made, attempt, 500, START)
    (attempt,) = due(made, START + 31 * DAY_S - 1)
    end(made, attempt, 500, START + 31 * DAY_S - 1)
    assert made.get_task(name, BASIC, START + 31 * DAY_S - 1).dispatch_count == 2
    assert due(made, START + 31 * DAY_S) == []
    with pytest.raises(Refused, match="does not exist"):
        made.get_task(name, BASIC, START + 31 * DAY_S)


@pytest.mark.parametrize(("status", "then"), [(429, 5), (503, 5), (500, 10), (404, 10), (200, 10)])
def test_what_asks_for_fewer_calls_halves_the_rate_and_what_had_gathered(status: int, then: int) -> None:
    made = book(rate_limits={"max_dispatches_per_second": 10})
    for _ in range(50):
        add(made)
    attempts = due(made, START)
    assert len(attempts) == 10
    end(made, attempts[0], status, START)
    assert len(due(made, START + 1)) == then


def test_a_slower_queue_has_fewer_calls_saved_up() -> None:
    pace = Pace(100, START)
    pace.slow_down(START)
    assert sum(pace.take(START) for _ in range(100)) == 50


def test_a_clock_that_is_set_back_costs_no_calls() -> None:
    pace = Pace(1, START)
    assert sum(pace.take(START - 60) for _ in range(100)) == 10
