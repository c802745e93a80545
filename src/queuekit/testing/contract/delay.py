# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""DEL: delays of a send, and taking a delayed message back."""

from __future__ import annotations

from queuekit.backend import Cancellable
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.spi import Queue


class Delay(Group):
    """Never early, and not much later than asked."""

    @requires("delay")
    def test_DEL_01_delay_never_early(self, harness: Harness) -> None:
        """It is delivered at its due time or after it, also to a consumer that is waiting."""
        queue, delay = Queue(harness), harness.min_delay_s
        sent_at = harness.clock.monotonic()
        queue.put(b"x", delay_s=delay)
        queue.expect_nothing("it was sent just now, with a delay")
        harness.pass_time(0.9 * delay)
        queue.expect_nothing("nine tenths of its delay have passed")
        queue.take(within_s=delay + harness.tolerance_s)
        assert harness.clock.monotonic() - sent_at >= delay - 0.005

    @requires("delay")
    def test_DEL_02_delay_delivered_in_window(self, harness: Harness) -> None:
        """It is delivered by its due time plus the tolerance."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"x", delay_s=delay)
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].body == b"x"

    def test_DEL_03_delay_zero_is_now(self, harness: Harness) -> None:
        """A delay of zero is as if there were none."""
        queue = Queue(harness)
        queue.put(b"x", delay_s=0.0)
        assert queue.take()[0].body == b"x"

    @requires("delay")
    def test_DEL_07_delay_above_native_limit(self, harness: Harness) -> None:
        """The longest delay is kept to its end, and is no shorter one in disguise."""
        queue = Queue(harness)
        longest = queue.capabilities.max_delay_s
        queue.put(b"x", delay_s=longest)
        harness.pass_time(0.999 * longest if harness.virtual else min(2 * harness.min_delay_s, 0.5 * longest))
        queue.expect_nothing("its delay has not ended")
        if harness.virtual:
            harness.pass_time(0.001 * longest)
            assert queue.take()[0].body == b"x"

    @requires("delay")
    def test_DEL_10_equal_delay_keeps_each_message(self, harness: Harness) -> None:
        """Two messages with the same body and the same due time both arrive."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"same", b"same", b"same", delay_s=delay)
        harness.pass_time(delay)
        assert len(queue.take(3, within_s=harness.tolerance_s)) == 3

    @requires("delay")
    def test_DEL_11_shorter_delay_overtakes_longer(self, harness: Harness) -> None:
        """A short delay sent after a long one is delivered first: nothing stands in a line behind it."""
        queue, delay = Queue(harness), harness.min_delay_s
        queue.put(b"long", delay_s=10 * delay)
        queue.put(b"short", delay_s=delay)
        queue.put(b"now")
        assert queue.take()[0].body == b"now"
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].body == b"short"
        queue.expect_nothing("the long delay has hardly begun")

    @requires("delay", "durable")
    def test_DEL_12_delayed_survives_restart(self, harness: Harness) -> None:
        """Closing everything, and a restart of the server where there is one, neither lose nor hasten it."""
        queue, delay = Queue(harness), 4 * harness.min_delay_s
        queue.put(b"x", delay_s=delay)
        queue.backend.close()
        if hasattr(harness, "restart"):
            harness.hook("restart")()
        later = queue.again()
        harness.pass_time(0.25 * delay)
        later.expect_nothing("a quarter of its delay has passed")
        harness.pass_time(0.75 * delay)
        assert later.take(within_s=harness.tolerance_s)[0].body == b"x"

    @requires("cancel")
    def test_DEL_15_cancel_scheduled(self, harness: Harness) -> None:
        """Cancelled before it is due it is never delivered; once delivered it is too late."""
        queue, delay = Queue(harness), harness.min_delay_s
        assert isinstance(queue.backend, Cancellable), "cancel is declared, so Cancellable must be there"
        (gone,) = queue.put(b"gone", delay_s=delay)
        (kept,) = queue.put(b"kept", delay_s=delay)
        assert queue.backend.cancel(gone.message_id)
        assert not queue.backend.cancel(gone.message_id), "it was cancelled before"
        assert not queue.backend.cancel("no-such-id")
        harness.pass_time(delay)
        assert queue.take(within_s=harness.tolerance_s)[0].message_id == kept.message_id
        queue.expect_nothing("the other one was cancelled")
        assert not queue.backend.cancel(kept.message_id), "it has been delivered"
