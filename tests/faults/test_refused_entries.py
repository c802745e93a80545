# SPDX-License-Identifier: Apache-2.0
"""Batches of which some entries are refused behind a 200: one answer for each, and only the refused go again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

import queuekit as qk

from . import pubsub_gate
from .places import Place
from .pubsub_place import COUNTED
from .rows import Result, figure
from .servers import Servers
from .test_lost_answers import seeded
from .working import LIMIT_S, on_sqs, until

pytestmark = pytest.mark.slow

BATCH = 10
BUSY = ("InternalError", "RequestThrottled", "ServiceUnavailable")
FAULT = "InvalidMessageContents"


class Refusals:
    """Stands between boto3 and the service: of each batch it keeps back any number of entries, from none to all.

    boto3 is told that the service refused them. A few sends are the sender's fault, and must not be tried again.

    Args:
        operation: Which batches.
        chance: Decides.
    """

    def __init__(self, operation: str, chance: random.Random) -> None:
        self._operation, self._chance = operation, chance
        self._lock = threading.Lock()
        self.requests = self.refused = 0
        self.passed, self.faults = Counter[str](), Counter[str]()

    def stand_before(self, backend: Any) -> None:
        """Between this backend and the service, for calls that have more than 5 s."""
        events = backend._clients.calling().meta.events
        events.register(f"before-parameter-build.sqs.{self._operation}", self._keep_back)
        events.register(f"before-call.sqs.{self._operation}", self._answer_if_none_is_left)
        events.register(f"after-call.sqs.{self._operation}", self._tell)

    def _keep_back(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        with self._lock:
            self._choose(params, context)

    def _choose(self, params: dict[str, Any], context: dict[str, Any]) -> None:
        entries = params["Entries"]
        chosen = self._chance.sample(entries, self._chance.randrange(len(entries) + 1))
        context["refusals"] = [self._refusal(each) for each in chosen]
        params["Entries"] = left = [each for each in entries if each not in chosen]
        context["none is left"] = not left
        self.passed.update(each["MessageBody"] for each in left if "MessageBody" in each)
        self.requests += 1
        self.refused += len(chosen)

    def _refusal(self, entry: dict[str, Any]) -> dict[str, Any]:
        fault = "MessageBody" in entry and self._chance.random() < 0.02
        self.faults.update([entry["MessageBody"]] if fault else [])
        return {"Id": entry["Id"], "SenderFault": fault, "Code": FAULT if fault else self._chance.choice(BUSY)}

    @staticmethod
    def _answer_if_none_is_left(context: dict[str, Any], **_: Any) -> tuple[AWSResponse, dict[str, Any]] | None:
        return (AWSResponse("", 200, HTTPHeaders(), None), {}) if context["none is left"] else None

    @staticmethod
    def _tell(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        parsed.setdefault("Failed", []).extend(context["refusals"])


@on_sqs
def test_R38_any_entries_of_a_batch_are_refused(row: Result, place: Place, backend: str) -> None:
    """Each request is a batch of which some are refused, be it the first with its messages or another try."""
    batches, chance = figure(10_000), seeded()
    texts = [f"{number}" for number in range(3 * batches)]
    row.ran(batches=batches, messages=len(texts))
    sends, acks = (Refusals(each, chance) for each in ("SendMessageBatch", "DeleteMessageBatch"))
    outcomes = send_from_many_threads(place.url("jobs"), texts, sends.stand_before)
    handled = handle_each_once(place, place.url("jobs"), outcomes, acks.stand_before)
    judge(
        row,
        outcomes,
        handled,
        faults=sends.faults,
        passed=sends.passed,
        requests=sends.requests + acks.requests,
        refused_sends=sends.refused,
        refused_acks=acks.refused,
    )
    assert set(outcomes) == set(texts)
    assert set(sends.faults.values()) == {1}
    assert sends.requests >= batches
    assert sends.refused > batches
    assert acks.refused > batches


@pytest.mark.parametrize("backend", ["pubsub"])
def test_R38_calls_and_any_leases_of_them_are_refused(row: Result, servers: Servers, backend: str) -> None:
    """A call that sends is taken whole or not at all; under exactly-once delivery each lease has its own answer."""
    batches, chance = figure(10_000, 150), seeded()
    texts = [f"{number}" for number in range(3 * batches)]
    row.case = "acks that are confirmed"
    row.ran(batches=batches, messages=len(texts))
    place = servers.empty_project(f"{COUNTED}&exactly_once=true")
    with pubsub_gate.Refusals(place.port, chance) as gate:
        url = place.url("jobs").replace(f":{place.port}", f":{gate.port}")
        outcomes = send_from_many_threads(url, texts, lambda _backend: None)
        handled = handle_each_once(place, url, outcomes, lambda _backend: None)
    place.close()
    judge(
        row,
        outcomes,
        handled,
        faults=gate.faults,
        passed=gate.passed,
        requests=gate.sends + gate.acks,
        refused_sends=gate.refused_sends,
        refused_acks=gate.refused_acks,
    )
    assert set(outcomes) == set(texts)
    assert gate.sends > gate.refused_sends >= len(texts) // BATCH // 8
    assert gate.refused_acks > batches


def handle_each_once(
    place: Place, url: str, outcomes: Mapping[str, qk.SendOutcome], prepare: Callable[[Any], None]
) -> Counter[str]:
    """Take and ack what was accepted; each text with the attempts that it came with."""
    accepted = sum(isinstance(each, qk.Accepted) for each in outcomes.values())
    handled = Counter[str]()
    with qk.Consumer[str](url, payload=str, lease=timedelta(minutes=10)) as consumer:
        prepare(consumer._link.backend)
        while len(handled) < accepted and (delivery := consumer.receive(timeout=LIMIT_S)):
            handled[delivery.payload] += delivery.attempt or 0
            delivery.ack()
        until(lambda: place.left("jobs") == 0)
    return handled


def judge(
    row: Result,
    outcomes: Mapping[str, qk.SendOutcome],
    handled: Counter[str],
    *,
    faults: Counter[str],
    passed: Counter[str],
    **figures: float,
) -> None:
    """Every message has one answer, and those that were accepted came once.

    Args:
        row: Where it is written down.
        outcomes: What each text's sender was told.
        handled: The attempts that each text came with.
        faults: How often each text was refused as its sender's fault.
        passed: How often each text was taken.
        **figures: What else was counted.
    """
    accepted = {text for text, each in outcomes.items() if isinstance(each, qk.Accepted)}
    rejected = {text for text, each in outcomes.items() if isinstance(each, qk.Rejected)}
    row.found(
        lost=len(accepted - set(handled)),
        duplicates=handled.total() - len(handled),
        bound=0,
        at_fault=len(rejected),
        **figures,
    )
    assert accepted | rejected == set(outcomes), "one answer for each"
    assert rejected == set(faults)
    assert set(faults.values()) <= {1}, "what is the sender's fault is not tried again"
    assert passed == Counter(accepted), "what was accepted was not sent again"
    assert handled == Counter(accepted), "each came once, and none again whose ack was refused at first"


def send_from_many_threads(
    url: str, texts: list[str], prepare: Callable[[Any], None]
) -> Mapping[str, qk.SendOutcome]:
    """Ten at a time. Each thread waits before it tries again, and each producer tries so often a second."""
    outcomes = dict[str, qk.SendOutcome]()

    def send(producer: qk.Producer[str], first: int) -> None:
        some = texts[first : first + BATCH]
        outcomes.update(zip(some, producer.send_many(some), strict=True))

    with ExitStack() as opened:
        producers = [
            opened.enter_context(qk.Producer[str](url, payload=str, timeout=timedelta(minutes=10))) for _ in range(8)
        ]
        for each in producers:
            prepare(each._link.backend)
        with ThreadPoolExecutor(64) as pool:
            for begun in [
                pool.submit(send, producers[first // BATCH % len(producers)], first)
                for first in range(0, len(texts), BATCH)
            ]:
                begun.result()
    return outcomes
