# SPDX-License-Identifier: Apache-2.0
"""What ``delay_via=`` may name, and the way through it; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from queuekit._engine.detour import Detour, HttpDetour, QueueDetour
from queuekit._engine.guard import Guard
from queuekit._values.capability import Capabilities
from queuekit._values.clock import Clock
from queuekit._values.errors import UnsupportedError, UsageError
from queuekit._values.url import QueueURL
from queuekit._wiring.engine_options import engine_options
from queuekit._wiring.opening import DEAD_SUFFIX, has_queue, queue_name
from queuekit._wiring.places import place_of, places_of, write_place
from queuekit._wiring.registry import find_spec
from queuekit.backend import Backend, HttpPublishable, HttpSchedulable


class End(NamedTuple):
    """One end of a detour: an open queue.

    Attributes:
        url: Its whole URL.
        options: What was given beside it.
        shown: The same, redacted.
        backend: Its open backend.
        guard: The way to it.
        can: Says what it can do.
    """

    url: QueueURL
    options: Mapping[str, Any]
    shown: str
    backend: Backend
    guard: Guard
    can: Callable[[], Capabilities]


def via_url(named: str, url: QueueURL, options: Mapping[str, Any]) -> QueueURL:
    """The URL of the queue through which longer delays go.

    Args:
        named: What ``delay_via=`` says.
        url: The queue's own whole URL.
        options: What was given beside it.

    Raises:
        UsageError: It names the queue itself, a queue for dead letters, none, or one that has a detour itself.
        SetupError: The URL is wrong.
    """
    via = QueueURL.parse(named)
    if not has_queue(via):
        msg = f"delay_via= of {url} names no queue; put one into its URL: {via}"
        raise UsageError(msg, queue=str(url), operation="open")
    if places_of(via, {}) & places_of(url, options):
        msg = f"delay_via= names the queue itself, {url}; name another queue"
        raise UsageError(msg, queue=str(url), operation="open")
    if engine_options(via, {}).delay_via:
        msg = f"delay_via= of {url} names {via}, which has a delay_via= of its own; name one that keeps delays itself"
        raise UsageError(msg, queue=str(url), operation="open")
    if queue_name(via, find_spec(via.scheme)).endswith(DEAD_SUFFIX):
        msg = f"delay_via= of {url} names {via}, a queue for dead letters; name another queue"
        raise UsageError(msg, queue=str(url), operation="open")
    return via


def detour_of(queue: End, via: End, clock: Clock) -> Detour:
    """The way of messages that wait elsewhere.

    Raises:
        UnsupportedError: What is named cannot keep delays for this queue.
    """
    own, other = queue.can(), via.can()
    keeps_s = longest_wait_s(via.backend, other)
    if keeps_s <= own.max_delay_s:
        _refuse(queue, via, f"keeps delays of {keeps_s:g} s, no longer than the queue's own")
    if own.durability != "process" and other.durability == "process":
        _refuse(queue, via, "loses what it holds when its process ends, and the queue does not")
    if isinstance(via.backend, HttpSchedulable):
        if not isinstance(queue.backend, HttpPublishable):
            _refuse(queue, via, "makes HTTP requests, which the queue takes no messages by")
        if why := via.backend.refusal_of(queue.backend.http_auth):
            _refuse(queue, via, why, "give its URL one")
        return HttpDetour(via.guard, via.backend, via.can, clock, target=queue.backend)
    if not other.receives:
        _refuse(queue, via, "pushes its messages, so that nobody could forward them")
    if other.copies == "fanout":
        _refuse(queue, via, "gives every message to several subscriptions, each of which would forward it")
    target = write_place(place_of(queue.url, queue.options))
    return QueueDetour(via.guard, via.backend, via.can, clock, target=target)


def longest_wait_s(backend: Backend, can: Capabilities) -> float:
    """For how long something can wait in a queue for delays: a request goes there once, and makes no hops."""
    return can.max_delay_s if isinstance(backend, HttpSchedulable) else can.longest_delay_s


def _refuse(queue: End, via: End, why: str, remedy: str = "name another queue that keeps delays") -> NoReturn:
    msg = f"delay_via= of {queue.shown} names {via.shown}, which {why}; {remedy}"
    raise UnsupportedError(msg, queue=queue.shown, operation="open")
