# SPDX-License-Identifier: Apache-2.0
"""The contract on a queue whose service neither counts attempts nor orders: memory, with both taken from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from queuekit._portable.link import BackendOpener
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Backend, ErrorClass, ErrorCode, IncomingMessage, OutgoingMessage, Rejected
from queuekit.testing.contract.bridged import Bridged
from queuekit.testing.contract.consume import Consume
from queuekit.testing.contract.dead_letter import DeadLetter
from queuekit.testing.contract.encoding import Encoding
from queuekit.testing.contract.handle_batch import HandleBatch
from queuekit.testing.contract.models import Models
from queuekit.testing.contract.settle import Settle
from queuekit.testing.faults import Answers, Call, FaultyOpener, Proceed, Script, Step, edit_answer, wrap

from .test_memory import MemoryHarness

_LESS: Mapping[str, Any] = {
    "attempts": "none",
    "ordering": "none",
    "one_in_flight_per_key": False,
    "delay_with_ordering": False,
}
_LACKING = ErrorClass(ErrorCode.UNSUPPORTED, sent="no", detail="not here")


def _uncounted(answers: Sequence[IncomingMessage]) -> list[IncomingMessage]:
    return [each._replace(attempt=None) for each in answers]


def _refusing(less: Mapping[str, Any]) -> Step:
    """What has an ordering key is refused, and a delay where there are none, as a queue must that lacks them."""

    def lacks(message: OutgoingMessage) -> bool:
        return message.ordering_key is not None or (message.delay_s > 0 and less.get("max_delay_s") == 0)

    def step(call: Call, proceed: Proceed) -> Answers:
        plain = [each for each in call.batch if not lacks(each)]
        answers = iter(proceed(plain) if plain else ())
        return [Rejected(_LACKING, each.message_id) if lacks(each) else next(answers) for each in call.batch]

    return step


def _is_for_delays(url: QueueURL) -> bool:
    return url.scheme == "sqlite" or url.hosts[0].name == "waiting"


class UncountingOpener(Opener):
    """Opens queues that say nothing of attempts; those for delays stay as they are."""

    less: Mapping[str, Any] = _LESS

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        backend = super().open(url, keywords)
        if _is_for_delays(url):
            return backend
        script = Script().always("receive", edit_answer(_uncounted)).always("send", _refusing(self.less))
        return wrap(backend, script, queue=str(url), limits=self.less)


class UncountedHarness(MemoryHarness):
    """Memory, as a service would be that tells no attempts."""

    examples = 20
    opener_class: type[UncountingOpener] = UncountingOpener

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.opener = self.opener_class(self.clock)
        self._openers.append(self.opener)

    def another_opener(self) -> BackendOpener:
        made = self.opener_class(self.clock)
        self._openers.append(made)
        return made


class TestUncounted(Settle, Bridged, DeadLetter, HandleBatch, Encoding, Models):
    """The cases in which attempts are counted, or copies made."""

    harness_class = UncountedHarness


class UndelayingOpener(UncountingOpener):
    """Opens queues that keep no delay of a send either."""

    less: Mapping[str, Any] = {**_LESS, "max_delay_s": 0.0}


class Sparing(FaultyOpener):
    """Lowers what queues declare, but for the one that is there for delays."""

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        return self._opener.open(url, keywords) if _is_for_delays(url) else super().open(url, keywords)


class DetouredHarness(UncountedHarness):
    """The same with another queue for delays."""

    opener_class = UndelayingOpener

    def limits(self, **smaller: Any) -> FaultyOpener:
        return Sparing(self.opener, **smaller)

    def url_of(self, queue: str) -> str:
        return f"{super().url_of(queue)}?delay_via=memory%3A%2F%2Fwaiting"


class TestDetoured(Consume, Settle, DeadLetter, HandleBatch):
    """The cases in which something waits."""

    harness_class = DetouredHarness
