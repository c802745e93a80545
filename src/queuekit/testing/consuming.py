# SPDX-License-Identifier: Apache-2.0
"""A consumer that is to be killed: it receives, settles in every way, and loses some of the answers.

It imports little, because a process that is killed is soon started again.
"""

from __future__ import annotations

from collections.abc import Callable

from queuekit._values.clock import Random, SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Action, IncomingMessage, Settlement
from queuekit.testing.clock import VirtualClock
from queuekit.testing.faults import Answers, Call, FaultyOpener, InjectedFault, Proceed, unavailable
from queuekit.testing.history import History
from queuekit.testing.recorder import Recorder

_BATCH = 10
_CALL_S = 30.0


def consume_in_child(url: str, path: str, name: str, lease_s: str, seed: str) -> None:
    """Receive and settle until killed; run in a process of its own."""
    consume(History.in_lines(path, worker=name), url, float(lease_s), int(seed), lambda: False)


def consume(history: History, url: str, lease_s: float, seed: int, killed: Callable[[], bool]) -> None:
    """Receive, settle in every way, and lose some answers, until killed."""
    parsed, chance = QueueURL.parse(url), VirtualClock(seed).random
    recorder = Recorder(history, str(parsed))
    recorder.always("settle", lambda call, proceed: _lose_some(call, proceed, chance))
    opener = FaultyOpener(Opener(SystemClock()), recorder)
    backend = opener.open(parsed)
    most = min(_BATCH, backend.capabilities.max_receive)
    while not killed():
        for got in backend.receive(max_messages=most, wait_s=0.05, lease_s=lease_s):
            entry = _entry(got, chance)
            if killed():
                break
            if entry is not None:
                _settle(backend.settle, entry)
    backend.close()
    opener.close()


def _entry(got: IncomingMessage, chance: Random) -> Settlement | None:
    """What is done with a delivery; nothing, where it is left to its lease."""
    draw = chance.random()
    if draw < 0.02:
        return None
    action = Action.RETRY if draw < 0.1 else Action.RELEASE if draw < 0.15 else Action.ACK
    return Settlement(got.handle, action)


def _settle(settle: Callable[..., object], entry: Settlement) -> None:
    try:
        settle([entry], timeout_s=_CALL_S)
    except InjectedFault:
        return  # nobody knows; the lease decides


def _lose_some(call: Call, proceed: Proceed, chance: Random) -> Answers:
    if chance.random() < 0.02:
        raise InjectedFault(unavailable(sent="no"))
    answers = proceed(call.batch)
    if chance.random() < 0.02:
        raise InjectedFault(unavailable())
    return answers
