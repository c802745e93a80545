# SPDX-License-Identifier: Apache-2.0
"""The rows of the table on Cloud Tasks: an emulator that calls a real server, and is called by Google's client."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tenacity

import queuekit as qk
from queuekit.cli.ledger import Line
from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.proxy import TcpProxy

from .killed_app import Task
from .load import told
from .places import Place, SqsPlace
from .pushed_app import MAX_ATTEMPTS, WAIT_S
from .rows import Result, figure
from .servers import Servers
from .tasks_gate import Refusals
from .tasks_place import AT_ONCE, Endpoint, TasksPlace, free_port
from .test_broker import cpu_s
from .test_dead_letter_queues import buried, deleted, refusing, unreachable
from .test_dead_letters import assert_waits
from .test_killed_workers import send
from .test_lost_answers import Sending, seeded
from .test_refused_entries import BATCH, send_from_many_threads
from .test_time import Sent, assert_in_time
from .workers import Workers
from .working import until

pytestmark = pytest.mark.slow
BACKOFF_S = 3.0
"""Of the queue itself. A server that was killed takes about as long to start."""
on_cloud_tasks = pytest.mark.parametrize("backend", ["cloudtasks"])


class Told:
    """What the emulator tells of its attempts."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    @property
    def answers(self) -> Counter[str]:
        """How each attempt ended, as in ``HTTP status code 204``."""
        return Counter(line.rpartition(": ")[2] for line in self.lines)


@pytest.fixture
def told_of() -> Told:
    return Told()


@pytest.fixture
def emulator(told_of: Told) -> Iterator[LocalCloudTasks]:
    with LocalCloudTasks(tell=told_of) as emulator:
        yield emulator


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.serving.stop()


Make = Callable[..., TasksPlace]


@pytest.fixture
def make_place(emulator: LocalCloudTasks, endpoint: Endpoint, tmp_path: Path) -> Iterator[Make]:
    """Make a place, by default one that pushes to the endpoint of this process."""
    with ExitStack() as closing:

        def make(*, target: str = endpoint.url, at: LocalCloudTasks = emulator, **settings: str) -> TasksPlace:
            made = TasksPlace(at, tmp_path, target, **settings)
            closing.callback(made.close)
            return made

        yield make


@on_cloud_tasks
def test_R15_delayed_messages(row: Result, make_place: Make, endpoint: Endpoint, backend: str) -> None:
    count, delay_s = figure(1_000), 3.0
    row.ran(messages=count, delay_s=delay_s, servers=1)
    place, came, sent = make_place(), list[tuple[int, float]](), dict[int, Sent]()
    app = qk.App(place.app_url)

    @app.handler("jobs", concurrency=20)
    def note(number: int) -> None:
        came.append((number, time.monotonic()))

    with app, endpoint.runs(app):
        for number in range(count):
            began = time.monotonic()
            note.send(number, delay=timedelta(seconds=delay_s))
            sent[number] = Sent(began, time.monotonic())
        until(lambda: len(came) >= count)
        until(lambda: place.left("jobs") == 0)
    row.found(lost=count - len(dict(came)), duplicates=len(came) - len(dict(came)), bound=0)
    assert sorted(number for number, _ in came) == list(range(count))
    assert_in_time(row, [(at, sent[number]) for number, at in came], delay_s)


@on_cloud_tasks
def test_R15_delays_beyond_what_the_service_keeps(
    row: Result, make_place: Make, endpoint: Endpoint, told_of: Told, backend: str
) -> None:
    """On virtual time, an hour at a time. The service keeps 30 days: what is left goes on as another task."""
    count, days = figure(1_000), 70
    row.case = "70 days, in hops of 30"
    row.ran(messages=count, days=days)
    clock, came = VirtualClock(), list[tuple[int, float]]()
    hour_s, began = 3600.0, clock.time()
    end_s = days * 24 * hour_s
    with LocalCloudTasks(clock=clock, tell=told_of) as emulator:
        place = make_place(at=emulator)
        app = qk.App(place.app_url, clock=clock)

        @app.handler("jobs", concurrency=20)
        def note(number: int) -> None:
            came.append((number, clock.time() - began))

        with app, endpoint.runs(app):
            later = timedelta(days=days)
            note.send_many([qk.Message(number, delay=later) for number in range(count)]).raise_for_failures()
            while clock.time() - began <= end_s:  # an hour more, as the queue's rate keeps some until time goes on
                clock.advance(hour_s)
                emulator.wait_until_quiet(timedelta(seconds=60))
        left = place.left("jobs")
    hops = len(told_of.lines) - count
    row.found(lost=count - len(dict(came)), duplicates=len(came) - len(dict(came)), bound=0, hops=hops)
    assert (sorted(number for number, _ in came), left) == (list(range(count)), 0)
    assert {after - end_s for _, after in came} <= {0.0, hour_s}, "none before its time"
    assert hops == 2 * count
    assert set(told_of.answers) == {"HTTP status code 204"}


@on_cloud_tasks
def test_R21_a_service_that_is_not_there(
    row: Result, make_place: Make, tmp_path: Path, emulator: LocalCloudTasks, backend: str
) -> None:
    """A send fails in time. A server starts all the same, as what it is called for is no matter of its own."""
    absent_s, limit_s, port = figure(60, 6), 2.0, free_port()
    row.ran(absent_s=absent_s)
    place = make_place(target=f"http://127.0.0.1:{port}/tasks?key=s3cr3t")
    with TcpProxy("127.0.0.1", place.port) as proxy:
        behind = place.behind(proxy)
        workers = Workers(tmp_path, behind)
        workers.app = "pushed_app"
        proxy.refuse()
        try:
            pid = workers.start("failing", "--port", f"{port}", env={"QK_DEAD": place.dead})
            workers.until(lambda _: "push.started" in workers.log())
            began = time.monotonic()
            with qk.Producer(behind.url("failing"), timeout=timedelta(seconds=limit_s)) as producer:
                with pytest.raises(qk.UnavailableError) as refused:
                    producer.send(b"x")
                row.took(refused=time.monotonic() - began)
            used, lines = cpu_s(pid), workers.log().count("\n")
            threading.Event().wait(absent_s)
            share = (cpu_s(pid) - used) / absent_s
            more = workers.log().count("\n") - lines
            row.found(cpu_percent=round(100 * share, 2), log_lines=more)
            proxy.heal()
            healed = time.monotonic()
            send(workers, "failing", [Task(number=1)])
            workers.until_lines(1)
            row.took(back=workers.lines()[0].at - healed)
            assert workers.stop() == {pid: 0}
        finally:
            workers.end()
    text = str(refused.value)
    assert "/failing?" in text
    assert "s3cr3t" not in text + workers.log()
    assert "\n" not in text
    assert row.times["refused"] <= limit_s + 1
    assert row.times["back"] <= 5 * 5.0
    assert share < 0.05
    assert more <= 6 * max(1.0, absent_s / 60)


@on_cloud_tasks
@pytest.mark.parametrize("dedup", [True, False], ids=["dedup", "none"])
def test_R37_the_answer_of_a_send_is_lost(
    row: Result, make_place: Make, endpoint: Endpoint, backend: str, dedup: bool
) -> None:
    """The connection is reset when the first byte of the answer comes: by then the request has arrived."""
    cuts = figure(500)
    row.case = "with a dedup id" if dedup else "without one"
    row.ran(cuts=cuts)
    place, came, outcomes = make_place(), Counter[str](), Counter[str]()
    app = qk.App(place.app_url)

    @app.handler("jobs", concurrency=20)
    def note(text: str) -> None:
        came[text] += 1

    texts = [f"message-{number:05}-" for number in range(cuts)]
    with TcpProxy("127.0.0.1", place.port) as proxy, app, endpoint.runs(app):
        with qk.Producer[str](place.behind(proxy).url("jobs"), payload=str) as producer:
            producer.check()
            for text in texts:
                cut = proxy.cut(to="client", after=0, matching=text.encode())
                sending: Any = Sending(producer, text, dedup_id=text if dedup else None)  # type: ignore[arg-type]
                until(sending.ended)
                outcomes[sending.outcome] += 1
                assert cut.is_set()
        until(lambda: place.left("jobs") == 0)
    row.found(lost=cuts - len(came), duplicates=came.total() - len(came), bound=0 if dedup else cuts, **outcomes)
    assert set(came) == set(texts), "whatever was told, each of them had been stored, or was tried again"
    assert came.total() - cuts <= (0 if dedup else cuts)
    assert set(outcomes) <= {"accepted", "duplicate"}
    assert outcomes["duplicate"] if dedup else came.total() > cuts, "else no answer was lost"


@on_cloud_tasks
def test_R38_any_creates_of_a_batch_are_refused(
    row: Result, make_place: Make, endpoint: Endpoint, backend: str
) -> None:
    """A batch is so many creates at once, and each has an answer of its own."""
    batches, chance = figure(10_000, 100), seeded()
    texts = [f"{number}" for number in range(3 * batches)]
    row.ran(batches=len(texts) // BATCH, messages=len(texts))
    place, came = make_place(), Counter[str]()
    app = qk.App(place.app_url)

    @app.handler("jobs", concurrency=20)
    def note(text: str) -> None:
        came[text] += 1

    with Refusals(place.port, chance) as gate, app, endpoint.runs(app):
        url = place.url("jobs").replace(f":{place.port}", f":{gate.port}")
        outcomes = send_from_many_threads(url, texts, lambda _backend: None)
        until(lambda: place.left("jobs") == 0)
    accepted = {text for text, each in outcomes.items() if isinstance(each, qk.Accepted)}
    rejected = {text for text, each in outcomes.items() if isinstance(each, qk.Rejected)}
    row.found(
        lost=len(accepted - set(came)),
        duplicates=came.total() - len(came),
        bound=0,
        requests=gate.creates,
        refused_sends=gate.refused,
        at_fault=len(rejected),
    )
    assert set(gate.faults.values()) == {1}, "what is the sender's fault is not tried again"
    assert rejected == set(gate.faults) - gate.in_doubt
    unknown = {text for text, each in outcomes.items() if isinstance(each, qk.Unknown)}
    assert unknown == set(gate.faults) & gate.in_doubt, "a try before may have been stored, for all one knows"
    assert accepted | rejected | unknown == set(texts), "one answer for each"
    assert gate.passed == Counter(accepted), "what was accepted was not sent again"
    assert came == Counter(accepted), "each came once"
    assert gate.refused > len(texts) // 2


@on_cloud_tasks
@pytest.mark.parametrize("by", ["new tasks", "the queue's own back-off"])
def test_R43_messages_that_always_fail_with_kills_mixed_in(
    row: Result, make_place: Make, told_of: Told, tmp_path: Path, backend: str, by: str
) -> None:
    """The server is killed and comes back. While it is away, calls that reach nobody count as attempts, too."""
    count, kills = figure(1_000), figure(4, 2)
    wait_s = WAIT_S if by == "new tasks" else BACKOFF_S
    row.case = f"with kills, retried by {by}"
    row.ran(messages=count, kills=kills, wait_s=wait_s)
    port, workers = free_port(), Workers(tmp_path, Place("", ""))
    backoff = {"min_backoff": f"{BACKOFF_S:g}s", "max_backoff": f"{BACKOFF_S:g}s"}
    place = make_place(
        target=f"http://127.0.0.1:{port}/tasks", queue_backoff="false" if by == "new tasks" else "true", **backoff
    )
    workers.place, workers.app = place, "pushed_app"

    def serve() -> int:
        return workers.start("failing", "--port", f"{port}", env={"QK_DEAD": place.dead})

    try:
        server = serve()
        workers.until(lambda _: "push.started" in workers.log())
        sent = send(workers, "failing", [Task(number=number) for number in range(count)])
        for number in range(kills):
            due = count * (number + 1) * 2 // (kills + 1)
            workers.until(lambda lines, due=due: len(lines) >= due or not place.left("failing"))  # type: ignore[misc]  # mypy takes the default for a second argument
            workers.kill(server)
            server = serve()
        workers.until(lambda _: place.left("failing") == 0, lambda: place.counts("failing"))
        assert workers.stop() == {server: 0}
    finally:
        workers.end()
        sys.stdout.write(workers.log()[-20_000:])
    judge_deaths(row, sent, workers.lines(), place.letters("failing"), told_of, AT_ONCE * kills)
    pairs = pairwise(sorted(workers.lines(), key=lambda line: (line.message_id, line.at)))
    same = [(one, two) for one, two in pairs if (one.message_id, one.pid) == (two.message_id, two.pid)]
    # Of one that a kill has cut off, both what it left and what is called once more may go on.
    waits = [two.at - one.at for one, two in same if two.attempt == one.attempt + 1]
    if waits:  # a host that is so busy that a server starts for as long as all attempts take shows none
        assert_waits(row, waits, wait_s)


def judge_deaths(
    row: Result, sent: set[str], lines: list[Line], letters: list[qk.DeadMessage], told_of: Told, cut: int
) -> None:
    """Each is dead, and every attempt was begun, or is a call that reached nobody.

    Args:
        row: Where to note it.
        sent: The ids.
        lines: One for each attempt that was begun.
        letters: What was found dead.
        told_of: How every call ended.
        cut: The most calls that kills have cut off: each is made once more, whatever came of it before.
    """
    begun = defaultdict[str, Counter[int]](Counter)
    for line in lines:
        begun[line.message_id][line.attempt] += 1
    unanswered = sum(times for how, times in told_of.answers.items() if not how.startswith("HTTP"))
    again = sum(times - 1 for each in begun.values() for times in each.values()) + len(letters) - len(sent)
    spent = sum(max(each) - len(each) for each in begun.values())
    row.found(lost=len(sent - {each.message_id for each in letters}), duplicates=again, bound=cut,
              starts=len(lines), dead=len(letters), unanswered=unanswered)  # fmt: skip
    assert {each.message_id for each in letters} == set(begun) == sent
    assert again <= cut
    assert spent <= unanswered, "an attempt that was not begun is a call that reached nobody"
    for each in letters:
        assert each.reason == f"attempts used up: {each.attempts} of {MAX_ATTEMPTS}"
        assert MAX_ATTEMPTS <= each.attempts <= max(begun[each.message_id])


@on_cloud_tasks
def test_R44_a_dead_letter_tells_everything(row: Result, make_place: Make, endpoint: Endpoint, backend: str) -> None:
    """But for a key, which nothing is ordered by here, and when it was sent, which the service does not say."""
    place, body = make_place(), b"\x00\xff raw \xf0"
    app, source = qk.App(place.app_url), place.url("jobs")
    attributes = {"Content-Language": "de", "x": "caf\u00e9 \u2028"}
    sent_at = datetime.now(UTC)

    @app.handler("jobs", retry=qk.RetryPolicy(max_attempts=2, wait=tenacity.wait_none()), dead_letter=place.dead)
    def charge(_body: bytes) -> None:
        raise KeyError("no such card")

    with app, endpoint.runs(app):
        accepted = charge.send(body, attributes=attributes)
        until(lambda: bool(place.letters("jobs")))
    (letter,) = place.letters("jobs")
    assert letter.last is not None
    fields = {
        "body": letter.body == body,
        "id": letter.message_id == accepted.message_id,
        "attributes": letter.attributes == attributes,
        "attempts": letter.attempts == 2,
        "last": sent_at <= letter.last <= datetime.now(UTC) + timedelta(seconds=1),
        "handler": letter.type == "charge",
        "worker": bool(letter.worker),
        "error": letter.error == "KeyError: 'no such card'",
        "trace": "in charge" in (letter.traceback or ""),
        "source": letter.source == str(qk.QueueURL.parse(source)),
    }
    row.found(lost=0, fields=f"{sum(fields.values())} of {len(fields)}")
    assert all(fields.values()), (fields, letter)
    assert letter.reason == "attempts used up: 2 of 2"


@on_cloud_tasks
@pytest.mark.parametrize("trouble", [unreachable, deleted, refusing], ids=lambda each: each.__name__)
def test_R45_a_dead_letter_queue_takes_nothing(
    row: Result, make_place: Make, endpoint: Endpoint, servers: Servers, backend: str,
    trouble: Callable[[Any, TcpProxy], Callable[[], None]], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Dead letters go to SQS here; what cannot get there is called again after a second, and not after an hour."""
    count = figure(200)
    row.case = trouble.__name__
    row.ran(messages=count)
    place: TasksPlace = make_place(max_backoff="1s")
    grave: SqsPlace = servers.empty_region()
    with TcpProxy("127.0.0.1", grave.port) as proxy:
        grave.url("grave")
        app = qk.App(place.app_url)

        @app.handler("jobs", dead_letter=grave.behind(proxy).url("grave"))
        def bury(_text: str) -> qk.DeadLetter:
            return qk.DeadLetter("not now")

        with app, endpoint.runs(app):
            bury.send("the first")  # by then both queues were looked at
            until(lambda: grave.left("grave") == 1)
            end = trouble(grave, proxy)
            bury.send_many([f"{number} {'x' * 2_000}" for number in range(count)]).raise_for_failures()
            until(lambda: told(caplog)["dead_letter.failed"] >= count)
            kept = place.left("jobs")
            end()
            until(lambda: place.left("jobs") == 0)
    there = Counter(int(text) for text in buried(grave) if text != "the")
    grave.close()
    row.found(lost=count - len(there), duplicates=there.total() - len(there), kept=kept)
    assert kept == count, "nothing left its queue as long as its dead letter was nowhere"
    assert set(there) == set(range(count))
    assert told(caplog)["delivery.dead"] >= count
