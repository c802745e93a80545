# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from queuekit.backend import OutgoingMessage
from queuekit.backends.sqlite import SQLiteBackend


def test_every_process_with_a_subscription_gets_every_message_in_order(
    actors: Any, start: Any, path: Path, queue: SQLiteBackend
) -> None:
    started = [start(actors.collect, path, name, 60)[1] for name in ("one", "two")]
    for pipe in started:
        assert pipe.recv() == "here"
    sent = [f"{index}" for index in range(60)]
    for each in sent:
        queue.send([OutgoingMessage(each, b"")], timeout_s=30)
    assert [pipe.recv() for pipe in started] == [sent, sent]
    assert queue.stats().ready == 0


def test_a_sender_that_is_killed_has_sent_to_all_subscriptions_or_to_none(
    actors: Any, start: Any, path: Path
) -> None:
    subscriptions = [actors.open_file(path, subscription=name) for name in ("one", "two", "three")]
    for each in subscriptions:
        each.create()
    for accepted_at_least in (1, 5, 9):
        process, pipe = start(actors.send_and_be_killed, path)
        while pipe.recv() < accepted_at_least:
            pass
        process.kill()
        process.join()
    seen = [[each.message_id for each in queue.peek(limit=100_000)] for queue in subscriptions]
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) % 3 == 0, "a batch is sent as one"
    assert len(seen[0]) >= 3 * (2 + 6 + 10), "what was accepted is there"
    for each in subscriptions:
        each.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_parent_and_forked_child_lease_with_different_ids(path: Path, actors: Any) -> None:
    queue = actors.open_file(path, subscription="one")
    queue.create()
    queue.send([OutgoingMessage("m", b"") for _ in range(4)], timeout_s=10)
    parents = [queue.receive(max_messages=1, wait_s=0, lease_s=60)[0].handle[0]]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            for _ in range(2):
                os.write(writer, f"{queue.receive(max_messages=1, wait_s=0, lease_s=60)[0].handle[0]} ".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        children = [int(each) for each in told.read().split()]
    os.waitpid(child, 0)
    parents.append(queue.receive(max_messages=1, wait_s=0, lease_s=60)[0].handle[0])
    assert len({*parents, *children}) == 4
    queue.close()
