# SPDX-License-Identifier: Apache-2.0
"""What fails for good: how often it is tried, what its dead letter tells, and what is no payload at all."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import tenacity
from pydantic import BaseModel

import queuekit as qk
from queuekit.backend import OutgoingMessage

from .killed_app import Task
from .places import Place
from .rows import Result, figure
from .servers import Servers
from .test_killed_workers import dead, send
from .workers import Workers
from .working import on_all, on_each, on_every, until, working

pytestmark = pytest.mark.slow

MAX_ATTEMPTS = 5


@on_every
def test_R43_messages_that_always_fail(row: Result, place: Place, backend: str) -> None:
    fail_always(row, place)


@pytest.mark.parametrize("backend", ["pubsub"])
def test_R43_messages_that_always_fail_where_copies_count(row: Result, servers: Servers, backend: str) -> None:
    """Without a dead-letter policy nobody else counts."""
    row.case = "counted by copies"
    place = servers.empty_project(settings="&dead_letter=jobs-dead")
    fail_always(row, place)
    place.close()


def fail_always(row: Result, place: Place) -> None:
    count, wait_s = figure(1_000), 0.5
    row.ran(messages=count, max_attempts=MAX_ATTEMPTS, wait_s=wait_s)
    starts = defaultdict[int, list[float]](list)
    app = qk.App(place.app_url)

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=MAX_ATTEMPTS, wait=tenacity.wait_fixed(wait_s)))
    def fail(number: int) -> None:
        starts[number].append(time.monotonic())
        raise ValueError(number)

    with app, working(app) as stop:
        fail.send_many(range(count)).raise_for_failures()
        until(lambda: sum(map(len, list(starts.values()))) >= MAX_ATTEMPTS * count)
        until(lambda: place.left("jobs") == 0)
        stop()
    found = place.letters("jobs")
    total = sum(len(each) for each in starts.values())
    row.found(lost=count - len(found), starts=total, dead=len(found))
    assert {len(each) for each in starts.values()} == {MAX_ATTEMPTS}
    assert sorted(int(each.body) for each in found) == list(range(count))
    assert_waits(row, [after - before for each in starts.values() for before, after in pairwise(each)], wait_s)


def assert_waits(row: Result, waits: list[float], wait_s: float) -> None:
    """By policy: at least nine tenths of it; what else comes on top is the host's, and is reported."""
    row.took(shortest_wait=min(waits), longest_wait=max(waits))
    assert min(waits) >= 0.9 * wait_s
    assert max(waits) <= 5 * (1.1 * wait_s + 1)


@pytest.mark.parametrize("backend", ["sqlite", "redis", "sqs", "pubsub"])
def test_R43_messages_that_always_fail_with_crashes_mixed_in(workers: Workers, row: Result, backend: str) -> None:
    """In child processes on real time. What ran in a child when it died is tried again at once, and alone."""
    count, crashes, wait_s = figure(1_000), figure(60, 4), 0.5
    row.case = "with crashes"
    row.ran(messages=count, crashing=crashes, wait_s=wait_s)
    failing = send(workers, "failing", [Task(number=number) for number in range(count)])
    crashing = send(workers, "failing", [Task(number=number, how="exit") for number in range(crashes)])
    parent = workers.start("failing", "--processes", "2")
    workers.until_empty_but(dead=count + crashes)
    assert workers.stop() == {parent: 0}
    starts = defaultdict(list)
    for line in workers.lines():
        starts[line.message_id].append(line)
    last_of_child = {line.pid: line.at for line in workers.lines()}
    first_of_child = {line.pid: line.at for line in reversed(workers.lines())}
    pairs = [
        (before, after)
        for message_id in failing
        for before, after in pairwise(starts[message_id])
        if before.at < last_of_child[before.pid] - 0.2  # else its child may have died with it
    ]
    reasons = Counter(each.reason for each in dead(workers, "failing"))
    row.found(lost=count + crashes - reasons.total(), starts=len(workers.lines()), dead=reasons.total())
    # The second where the last attempt was not begun, as its child died before.
    assert set(reasons) <= {"attempts used up: 5 of 5", "attempts used up: delivered 6 times"}
    assert reasons.total() == count + crashes
    times = Counter(len(starts[each]) for each in failing | crashing)
    assert max(times) == MAX_ATTEMPTS, "a crash is one of the five attempts"
    beside = 4 * crashes  # what was handed to a child that died, and may not have begun, has used an attempt too
    assert times[MAX_ATTEMPTS] >= count + crashes - beside
    assert min(after.at - before.at for before, after in pairs) >= 0.9 * wait_s
    # How long a host takes to start another child is not the policy's.
    up = [(before, after) for before, after in pairs if first_of_child[after.pid] <= before.at]
    assert_waits(row, [after.at - before.at for before, after in up], wait_s)


@on_all
def test_R44_a_dead_letter_tells_everything(row: Result, place: Place, backend: str) -> None:
    app, body = qk.App(place.app_url), b"\x00\xff raw \xf0"
    queue = "jobs.fifo" if backend == "sqs" else "jobs"  # a standard queue orders nothing, and takes no key
    source = place.url(queue)
    sent_at = datetime.now(UTC)
    attributes = {"Content-Language": "de", "x": "caf\u00e9 \u2028"}

    @app.handler(queue, retry=qk.RetryPolicy(max_attempts=2, wait=tenacity.wait_none()))
    def charge(_body: bytes) -> None:
        raise KeyError("no such card")

    with app:
        accepted = charge.send(body, attributes=attributes, ordering_key="ada")
        with working(app) as stop:
            until(lambda: bool(place.letters(queue)))
            stop()
    (letter,) = place.letters(queue)
    now = datetime.now(UTC)
    assert letter.first is not None
    assert letter.last is not None
    fields = {
        "body": letter.body == body,
        "id": letter.message_id == accepted.message_id,
        "attributes": letter.attributes == attributes,
        "key": letter.ordering_key == "ada",
        "attempts": letter.attempts == 2,
        "first": abs(letter.first - sent_at) < timedelta(seconds=60),
        "last": letter.first <= letter.last <= now + timedelta(seconds=1),
        "handler": letter.type == "charge",
        "worker": bool(letter.worker),
        "error": letter.error == "KeyError: 'no such card'",
        "trace": "in charge" in (letter.traceback or ""),
        "source": letter.source == source,
    }
    row.found(lost=0, fields=f"{sum(fields.values())} of {len(fields)}")
    assert all(fields.values()), fields
    assert letter.reason == "attempts used up: 2 of 2"


class Order(BaseModel):
    item: str
    count: int


def fuzzed(chance: random.Random, count: int) -> list[bytes]:
    """Bodies that are no order: noise, cut or changed JSON, other types, and other versions of it."""
    good = b'{"item": "tea", "count": 3}'
    other: list[bytes] = [
        b"", b"null", b"[]", b"{}", b'"x"', b"3", b"tru", b"\xff\xfe", b"\x80\x04K\x01.", b"NaN", b"<order/>",
        b"[" * 10_000, b"1" * 10_000, b'{"item": 1, "count": 3}', b'{"item": "tea", "count": "many"}',
        b'{"version": 2, "lines": [{"item": "tea"}]}', b'{"item": "\\ud800", "count": 3}',
        b'{"item": "tea", "count": 1e400}', b"--- !!python/object {}",
    ]  # fmt: skip
    found = list(other)
    while len(found) < count:
        kind = chance.randrange(3)
        if kind == 0:
            found.append(chance.randbytes(chance.randrange(200)))
        elif kind == 1:
            found.append(good[: chance.randrange(len(good))])
        else:
            at = chance.randrange(len(good))
            found.append(good[:at] + b"\x00" + good[at + 1 :])
    return found[:count]


def send_raw(place: Place, bodies: list[bytes]) -> None:
    """As somebody else does, who knows nothing of queuekit: bodies without metadata."""
    with qk.Consumer(place.url("jobs")) as consumer:
        backend: Any = consumer._link.backend
        step = backend.capabilities.max_send_batch
        for first in range(0, len(bodies), step):
            batch = [OutgoingMessage(f"m{first + n}", body) for n, body in enumerate(bodies[first : first + step])]
            assert all(isinstance(each, qk.Accepted) for each in backend.send(batch, timeout_s=30))


@on_each
def test_R47_bodies_that_are_no_payload(row: Result, place: Place, backend: str) -> None:
    count, neighbours = figure(10_000), figure(1_000)
    row.ran(bad=count, good=neighbours)
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed: {seed}\n")
    chance = random.Random(seed)
    bad = fuzzed(chance, count)
    everything = [*bad, *[b'{"item": "tea", "count": %d}' % number for number in range(neighbours)]]
    chance.shuffle(everything)
    app, done = qk.App(place.app_url), list[int]()

    @app.handler("jobs", default=True)
    def take(order: Order) -> None:
        done.append(order.count)

    with app:
        send_raw(place, everything)
        with working(app) as stop:
            until(lambda: place.left("jobs") == 0)
            assert stop() is qk.ExitCode.DRAINED
    found = place.letters("jobs")
    row.found(lost=neighbours - len(set(done)), dead=len(found))
    assert sorted(done) == list(range(neighbours))
    assert Counter(each.body for each in found) == Counter(bad), "each with its bytes"
    assert {each.reason for each in found} == {"undecodable"}


@on_each
@pytest.mark.parametrize("how", ["purge", "delete"])
def test_R55_purged_and_deleted_under_a_worker(
    row: Result, place: Place, backend: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    rounds, each_time = figure(100, 8), 200
    row.case = how
    row.ran(rounds=rounds, messages=rounds * each_time)
    app, began = qk.App(place.app_url), Counter[int]()
    said = 0

    @app.handler("jobs", concurrency=2)
    def work(number: int) -> None:
        began[number] += 1
        time.sleep(0.001)

    with app, qk.Consumer(place.url("jobs")) as asking, working(app) as stop:
        admin: Any = asking._link.backend
        for number in range(rounds):
            work.send_many([number] * each_time).raise_for_failures()
            until(lambda number=number: began[number] > 3)  # type: ignore[misc]
            removed = getattr(admin, how)()
            said += removed or 0
            mark = rounds + number
            work.send(mark)
            until(lambda mark=mark: began[mark] > 0)  # type: ignore[misc]
        until(lambda: place.left("jobs") == 0)
        assert stop() is qk.ExitCode.DRAINED
    worked = sum(began[number] for number in range(rounds))
    warned = [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    row.found(removed=said, worked=worked, warnings=len(warned))
    if how == "purge":
        assert worked + said == rounds * each_time, "each was worked, or was said to be removed"
        assert warned == []
    else:
        told = Counter(record.action for record in warned)  # type: ignore[attr-defined]
        assert set(told) == {"lease.lost", "queue.recreated"}
        assert told["lease.lost"] <= began.total(), "one for what was worked and could not be settled, and no storm"
        assert told["queue.recreated"] <= rounds
    assert place.letters("jobs") == []
