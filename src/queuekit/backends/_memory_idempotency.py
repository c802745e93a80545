# SPDX-License-Identifier: Apache-2.0
"""Which work was done, in this process's memory: shared by every worker of the process, gone with it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from heapq import heappop, heappush

from queuekit.stores import Claim, ClaimState, Clock, InvalidURLError, QueueURL, StoreSpec

# A claim that ran out is remembered for longer, because its owner may still complete it.
_AFTERLIFE_S = 3600.0
_CLAIMED = Claim(ClaimState.CLAIMED)
_DONE = Claim(ClaimState.DONE)
_MISMATCH = Claim(ClaimState.MISMATCH)


@dataclass(slots=True)
class _Entry:
    owner: str
    fingerprint: str
    until: float
    done: bool = False


@dataclass(slots=True)
class _Space:
    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[str, _Entry] = field(default_factory=dict)
    ends: list[tuple[float, str]] = field(default_factory=list)


_SPACES: dict[str, _Space] = {}


def reset() -> None:
    """Forget every key of every space."""
    for space in list(_SPACES.values()):
        with space.lock:
            space.entries.clear()
            space.ends.clear()


def _after_fork() -> None:
    # The lock may have been held by a thread that does not live here.
    for space in _SPACES.values():
        space.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class MemoryIdempotency:
    """Keys of one space.

    Args:
        space: Stores of different spaces share nothing.
        clock: Time.
    """

    def __init__(self, space: str, clock: Clock) -> None:
        self._space = _SPACES.setdefault(space, _Space())
        self._clock = clock

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        """See `IdempotencyStore.claim`."""
        with self._space.lock:
            now = self._clock.monotonic()
            self._sweep(now)
            found = self._space.entries.get(key)
            if found is not None and found.until > now:
                if found.fingerprint != fingerprint:
                    return _MISMATCH
                if found.done:
                    return _DONE
                if found.owner != owner:
                    return Claim(ClaimState.BUSY, found.until - now)
            entry = self._space.entries[key] = _Entry(owner, fingerprint, now)
            self._hold(key, entry, now + lease_s)
            return _CLAIMED

    def renew(self, key: str, *, owner: str, lease_s: float) -> bool:
        """See `IdempotencyStore.renew`."""
        with self._space.lock:
            found = self._owned(key, owner)
            if found is None or found.done:
                return False
            self._hold(key, found, self._clock.monotonic() + lease_s)
            return True

    def complete(self, key: str, *, owner: str, keep_s: float) -> bool:
        """See `IdempotencyStore.complete`."""
        with self._space.lock:
            found = self._owned(key, owner)
            if found is None:
                return False
            if not found.done:
                found.done = True
                self._hold(key, found, self._clock.monotonic() + keep_s)
            return True

    def forget(self, key: str, *, owner: str) -> bool:
        """See `IdempotencyStore.forget`."""
        with self._space.lock:
            found = self._owned(key, owner)
            if found is None or found.done:
                return False
            del self._space.entries[key]
            return True

    def close(self) -> None:
        """Nothing to give back; the keys stay."""

    def _owned(self, key: str, owner: str) -> _Entry | None:
        found = self._space.entries.get(key)
        return found if found is not None and found.owner == owner else None

    def _hold(self, key: str, entry: _Entry, until: float) -> None:
        entry.until = until
        heappush(self._space.ends, (until if entry.done else until + _AFTERLIFE_S, key))

    def _sweep(self, now: float) -> None:
        ends, entries = self._space.ends, self._space.entries
        while ends and ends[0][0] <= now:
            _, key = heappop(ends)
            entry = entries.get(key)
            if entry is not None and (entry.until if entry.done else entry.until + _AFTERLIFE_S) <= now:
                del entries[key]


def _open(url: QueueURL, clock: Clock) -> MemoryIdempotency:
    space = url.options.get("space", "")
    if url.hosts or url.user is not None or url.path or url.options.keys() - {"space"}:
        msg = "a memory store's URL is memory://, or memory://?space=NAME"
        raise InvalidURLError(msg)
    return MemoryIdempotency(space, clock)


STORE = StoreSpec(open=_open, forms=("memory://",), one_process=True)
