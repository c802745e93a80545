# SPDX-License-Identifier: Apache-2.0
"""A queue that was removed under its consumer is not silently another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import Action, OutgoingMessage, QueueURL, Recreating, Settlement, SystemClock
from queuekit.testing import reset_memory

Open = Callable[[], Any]


@pytest.fixture(params=["memory://q", "sqlite:///{directory}/q.db?queue=q"])
def open_queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    from queuekit._wiring.opening import Opener

    opener, opened = Opener(SystemClock()), list[Any]()

    def open_one() -> Any:
        opened.append(opener.open(QueueURL.parse(request.param.replace("{directory}", str(tmp_path)))))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
    opener.close()
    reset_memory()


def put(queue: Any, *ids: str) -> None:
    queue.send([OutgoingMessage(each, b"x") for each in ids], timeout_s=5.0)


def take(queue: Any) -> list[str]:
    got = queue.receive(max_messages=10, wait_s=0.0, lease_s=30.0)
    if got:
        queue.settle([Settlement(each.handle, Action.ACK) for each in got], timeout_s=5.0)
    return [each.message_id for each in got]


def test_a_queue_that_is_only_used_is_never_reported(open_queue: Open) -> None:
    queue = open_queue()
    assert isinstance(queue, Recreating)
    assert take(queue) == []
    for number in range(5):
        put(open_queue(), f"{number}")
        assert take(queue) == [f"{number}"]
        assert take(queue) == []
    open_queue().purge()
    assert take(queue) == []
    assert queue.recreated() == 0


def test_each_removal_is_reported_once_to_whoever_used_the_queue(open_queue: Open) -> None:
    queue, other = open_queue(), open_queue()
    put(other, "1", "2")
    assert take(queue) == ["1", "2"]
    other.delete()
    assert take(queue) == []
    assert queue.recreated() == 1
    put(other, "3")
    assert take(queue) == ["3"]
    put(other, "4")
    assert (take(queue), queue.recreated()) == (["4"], 1)
    other.delete()
    put(other, "5")
    assert (take(queue), queue.recreated()) == (["5"], 2)


def test_what_was_only_waited_for_is_reported_too(open_queue: Open) -> None:
    queue, other = open_queue(), open_queue()
    other.send([OutgoingMessage("later", b"x", delay_s=60.0)], timeout_s=5.0)
    assert take(queue) == []
    other.delete()
    assert take(queue) == []
    assert queue.recreated() == 1


def test_a_file_that_was_removed_is_a_queue_that_was(open_queue: Open, tmp_path: Path) -> None:
    queue = open_queue()
    put(queue, "1", "2")
    assert take(queue) == ["1", "2"]
    if not (tmp_path / "q.db").exists():
        reset_memory()
    for path in tmp_path.glob("q.db*"):
        if path.is_file():
            path.unlink()
    put(open_queue(), "3")
    assert (take(queue), queue.recreated()) == (["3"], 1)
