# SPDX-License-Identifier: Apache-2.0
"""The contract on Cloud Tasks: its emulator, and a real HTTP server that it calls.

What speaks of a delivery that is fetched, and settled by a call, has no meaning where the service pushes: such cases
stand in `LEFT_OUT` with their reasons, and a test holds both against the promised IDs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping

import pytest

from queuekit.testing.contract import BackendContract
from queuekit.testing.contract.ids import all_ids, case_id

from .cloud_tasks_servers import CloudTasksHarness, served
from .one_face import OneFace


def _numbered(group: str, numbers: Iterable[int], reason: str) -> dict[str, str]:
    return {f"{group}-{number:02}": reason for number in numbers}


_BY_ANSWER = "what is pushed is settled by the answer to its request, and nothing else; PSH says what holds"
_NO_LEASE = "a dispatch has a deadline, of 15 s at least, and no lease that could be extended, or end sooner"
_NO_CONSUMER = "nobody receives or polls; the door has tests of its own in tests/unit/push"
_HANDED_OVER = "a request has one message, so that no batch could fail in part; other backends judge the engine"

LEFT_OUT: Mapping[str, str] = {
    **_numbered("CON", range(1, 15), _NO_CONSUMER),
    **_numbered("ACK", range(1, 18), _BY_ANSWER),
    **_numbered("LEA", range(1, 20), _NO_LEASE),
    **_numbered("ORD", range(1, 14), "the service orders nothing, not even roughly"),
    **_numbered("RED", range(1, 7), "dead letters are kept by another queue, whose backend is judged by these"),
    **_numbered("BPF", range(11, 20), _HANDED_OVER),
    **_numbered("CCY", range(1, 14), "how many run at once is the queue's own setting, and the server's"),
    **_numbered("FLT", range(1, 18), "of a broken way to the service a pushed delivery knows nothing"),
    **_numbered("MOD", range(1, 10), "the model receives and settles by calls"),
    "DUP-02": "names are taken for an hour at least; tests/integration/cloud_tasks lets it pass",
    "DUP-07": _NO_LEASE,
    "DUP-09": "what is not to be tried yet goes on by a new task; tests/integration/cloud_tasks/test_pushed.py",
    "DUP-11": "as DUP-09",
    "DLQ-05": "an answer names no wait, so that it is the queue's own; PSH-03 has the rest",
    "SHU-03": _NO_CONSUMER,
    "SHU-04": "nobody receives: the endpoint drains, as wherever messages are pushed; tests/unit/push/test_asgi.py",
    "SHU-05": _NO_LEASE,
    "SHU-06": "as SHU-04",
    "SHU-07": _NO_CONSUMER,
    "SHU-08": _NO_CONSUMER,
    "SHU-10": "as SHU-04: there, a server gets SIGTERM",
    "SHU-13": _NO_CONSUMER,
    "SHU-14": _NO_CONSUMER,
    "MET-02": "the service does not say when it took a message, so that nobody knows its age",
    "MET-03": _NO_LEASE,
    "ADM-09": "what was pushed before a pause is with its handlers, until their deadline of 15 s at least",
    "ADM-11": "a queue that was deleted cannot be made again for days",
}


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    with served(CloudTasksHarness):
        yield


class TestCloudTasks(OneFace, BackendContract):
    harness_class = CloudTasksHarness


def _cases() -> dict[str, str]:
    found = {name: case_id(name) for name, case in inspect.getmembers(BackendContract, callable)}
    return {name: case for name, case in found.items() if case is not None}


for _name, _case in _cases().items():
    if _case in LEFT_OUT:
        setattr(TestCloudTasks, _name, None)


def test_every_promised_case_is_run_or_left_out_with_a_reason() -> None:
    run = {_cases()[name] for name in _cases() if getattr(TestCloudTasks, name) is not None}
    assert run.isdisjoint(LEFT_OUT)
    assert run | set(LEFT_OUT) == set(all_ids())
    assert all(LEFT_OUT.values())
