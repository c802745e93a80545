# SPDX-License-Identifier: Apache-2.0
"""Keys that wait, and what they cost."""

from queuekit._engine.ordered_sends import PausedKeys


def test_too_many_paused_keys_let_every_key_wait_and_forget_none() -> None:
    paused = PausedKeys(most=3)
    paused.pause("abc")
    assert all(paused.holds(key) for key in "abcx")
    assert not paused.holds(None)
    paused.resume("b")
    assert [key for key in "abcx" if paused.holds(key)] == ["a", "c"]
    assert paused.names() == {"a", "c"}
