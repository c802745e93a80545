# SPDX-License-Identifier: Apache-2.0
"""``queuekit info``: what is installed, what a queue can do, and whether it can be reached."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from queuekit import CheckReport, QueueKitError
from queuekit._portable.link import Link, open_link
from queuekit._values.capability import Capabilities
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit._wiring.registry import known_schemes
from queuekit.backend import Admin, Pausable, QueueStats
from queuekit.cli.showing import put, put_json, put_table, redact, say


def info(url: str | None, *, as_json: bool) -> int:
    """Tell about this installation, and about a queue where a URL is given. Returns the exit code.

    Raises:
        SetupError: The URL is wrong.
        UsageError: The URL names no queue.
    """
    told: dict[str, Any] = {"version": version("queuekit"), "schemes": list(known_schemes())}
    if url is not None:
        told |= describe_queue(url)
    if as_json:
        put_json(told)
    else:
        _show(told)
    return int(bool(told.get("problems")))


def describe_queue(url: str) -> dict[str, Any]:
    """What a queue can do and holds, as JSON has it.

    Raises:
        SetupError: The URL is wrong.
        UsageError: The URL names no queue.
    """
    opener = Opener(SystemClock())
    link = open_link(url, None, {}, opener=opener)
    try:
        report = link.check()
        stats = read_stats(link) if report.ok else None
        paused = read_paused(link) if report.ok else None
    except QueueKitError as error:
        report, stats = CheckReport(link.shown, link.capabilities, (str(error),), error), None
        paused = None
    finally:
        link.close()
        opener.close()
    return {
        "queue": link.shown,
        "ok": report.ok,
        "problems": [redact(each) for each in report.problems],
        "capabilities": describe_capabilities(report.capabilities),
        "stats": None if stats is None else asdict(stats),
        "paused": paused,
        "delay_via": None if link.via is None else link.via.shown,
    }


def read_stats(link: Link) -> QueueStats | None:
    """How many messages the queue holds; None where its backend cannot say.

    Raises:
        QueueKitError: The service could not be asked.
    """
    backend = link.backend
    return link.guard.call("stats", backend.stats) if isinstance(backend, Admin) else None


def read_paused(link: Link) -> bool | None:
    """Whether the queue is paused for everybody; None where its backend has no such thing.

    Raises:
        QueueKitError: The service could not be asked.
    """
    backend = link.backend
    return link.guard.call("is_paused", backend.is_paused) if isinstance(backend, Pausable) else None


def describe_capabilities(can: Capabilities) -> dict[str, Any]:
    """Capabilities as JSON has them."""
    return {**asdict(can), "assumed": sorted(can.assumed)}


def _show(told: dict[str, Any]) -> None:
    put(f"queuekit {told['version']}, schemes: {', '.join(told['schemes'])}")
    if "queue" not in told:
        return
    put(f"queue: {told['queue']}")
    put("check: ok" if told["ok"] else "check: failed")
    if told["paused"]:
        put("paused: nothing is handed out; go on with: queuekit resume")
    if told["delay_via"] is not None:
        own_s = told["capabilities"]["max_delay_s"]
        put(f"delays: beyond {own_s:g} s they wait in {told['delay_via']}, for a send, a receive and an ack more")
    for problem in told["problems"]:
        say(f"queuekit: {problem}")
    if told["stats"] is not None:
        put_table(("state", "messages"), [(name, _text(count)) for name, count in told["stats"].items()])
    put_table(("capability", "value"), [(name, _text(value)) for name, value in told["capabilities"].items()])


def _text(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
