# SPDX-License-Identifier: Apache-2.0
"""The contract on Cloud Tasks: its emulator, and a real HTTP server that it calls.

What speaks of a delivery runs where it has a meaning for one that is pushed: handlers behind the app's own server,
and the rest at a desk that answers each request when its message is settled. What speaks of polls, of fetching ahead,
or of several messages in one call has none: it stands in `LEFT_OUT`, each with its reason.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.ids import all_ids, case_id

from .cloud_tasks_servers import CloudTasksHarness, served
from .one_face import OneFace

_REFUSED = (
    "tests/integration/cloud_tasks/test_pushed.py::test_a_consumer_and_a_worker_are_refused_and_told_what_to_do"
)
_GIVEN_BACK = (
    "tests/unit/_portable/test_pipe.py::test_nothing_begins_when_the_time_is_over_and_the_rest_is_given_back"
)
_KILLED = (
    "tests/integration/cloud_tasks/test_killed_servers.py"
    "::test_two_kills_lose_nothing_and_what_fails_for_good_is_kept_with_its_reason"
)
_RATE = "tests/unit/push/test_asgi_abuse.py::test_a_server_does_not_start_with_what_cannot_work"
_STOPPED = "tests/unit/push/test_asgi_end.py::test_what_has_not_begun_is_given_back_while_another_handler_runs_on"

LEFT_OUT: Mapping[str, str] = {
    "CON-02": f"how long a poll waits; nobody polls, and who tries is told so: {_REFUSED}",
    "CON-03": "a poll that does not wait is a poll, as CON-02",
    "CON-04": "how many messages a poll brings; a request brings one",
    "CON-05": "as CON-04",
    "CON-06": "as CON-04",
    "CON-07": "as CON-04",
    "CON-08": "what wakes a poll; each message begins a request of its own",
    "CON-09": "a poll given up on this side; a request that its server gives up comes again: LEA-19",
    "CON-13": f"how an iteration ends; none begins: {_REFUSED}",
    "CON-14": f"a receive that times out; none begins: {_REFUSED}",
    "ACK-03": "a second settlement by a handler; it has one, which is what it returns or raises",
    "ACK-10": "a handle that was never ours; there is none, as an answer goes with its request",
    "ACK-11": "a handle of another queue; as ACK-10",
    "ACK-12": "settlements of several messages in one call; each message has an answer of its own",
    "ACK-13": "the same, beyond a limit; as ACK-12",
    "ACK-14": "a receive after a settlement that failed; a lost answer has its case in DUP-07",
    "LEA-14": "whether handles differ; as ACK-10",
    "LEA-15": "a handle after a reconnect; as ACK-10",
    "LEA-17": f"what a consumer has fetched and not begun; of a server it is given back: {_GIVEN_BACK}",
    "BPF-11": "a batch that a handler fails in part; a request has one message, so that no part is left",
    "BPF-12": "a batch handler that raises at once; for its one message that is ACK-16",
    "BPF-13": "a batch handler that raises after some; as BPF-11",
    "BPF-14": "a result for a message of another batch; judged on the engine, where there are batches",
    "BPF-15": "a message that a batch handler forgets; as BPF-14",
    "BPF-16": "which message of a batch is the bad one; as BPF-11",
    "BPF-18": "a call that settles some; as ACK-12",
    "BPF-19": "a call that settles, tried until the lease ends; an answer is given once. One that is lost: DUP-07",
    "CCY-02": "receives at once; no two servers get one request, and LEA-01 has two who look",
    "CCY-05": f"how much a consumer fetches ahead; what a server cannot begin it gives back: {_GIVEN_BACK}",
    "CCY-06": "as CCY-05",
    "CCY-10": f"what a worker does not fetch for its rate; the queue has one, and a handler's is refused: {_RATE}",
    "CCY-11": "settlements beside polls; there is no poll, and the answer has its own connection",
    "CCY-13": "which of several queues is fetched from first; the service calls for each of them at its own pace",
    "SHU-03": f"a receive that waits when its consumer is closed; none begins: {_REFUSED}",
    "SHU-07": f"a poll under way at a stop; what comes to a server that stops is given back: {_STOPPED}",
    "FLT-12": "errors between polls; there are none, and a server that could not be reached is called again: LEA-19",
    "FLT-13": "errors that end a consumer; none begins. A server that cannot work its queue does not start: DLQ-11",
    "MOD-08": f"consumers that fetch, for long; servers that are called have a long run of their own: {_KILLED}",
    "MOD-09": f"the same with kills: {_KILLED}",
}


@pytest.fixture(scope="module", autouse=True)
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with served(tmp_path_factory.mktemp("emulator"), CloudTasksHarness):
        yield


class TestCloudTasks(OneFace, BackendContract):
    harness_class = CloudTasksHarness


def _cases() -> dict[str, str]:
    found = {name: case_id(name) for name, case in inspect.getmembers(BackendContract, callable)}
    return {name: case for name, case in found.items() if case is not None}


for _name, _case in _cases().items():
    if _case in LEFT_OUT:
        setattr(TestCloudTasks, _name, None)


def test_what_proves_it_in_the_place_of_a_case_is_there() -> None:
    root, names = Path(__file__).parents[2], set[str]()
    for reason in LEFT_OUT.values():
        names.update(re.findall(r"tests/\S+?\.py::test_\w+", reason))
        assert set(re.findall(r"\b[A-Z]{3}-[0-9]{2}\b", reason)) <= set(all_ids())
    assert len(names) == 5
    for each in names:
        file, _, name = each.partition("::")
        assert f"def {name}(" in (root / file).read_text(), each


def test_every_promised_case_is_run_or_left_out_with_a_reason() -> None:
    run = {_cases()[name] for name in _cases() if getattr(TestCloudTasks, name) is not None}
    assert run.isdisjoint(LEFT_OUT)
    assert run | set(LEFT_OUT) == set(all_ids())
    assert all(LEFT_OUT.values())
