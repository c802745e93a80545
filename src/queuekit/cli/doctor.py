# SPDX-License-Identifier: Apache-2.0
"""``queuekit doctor``: what can be lost by a queue's settings."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from queuekit import Diagnosis
from queuekit import doctor as look
from queuekit.cli.info import describe_capabilities
from queuekit.cli.showing import put, put_json, put_table, redact


def doctor(url: str, *, max_attempts: int | None, lease: timedelta | None, as_json: bool) -> int:
    """Show what was found. Returns the exit code: 1 where a finding is a loss.

    Raises:
        QueueKitError: The URL is wrong, or the service could not be asked.
    """
    found = look(url, max_attempts=max_attempts, lease=lease)
    if as_json:
        put_json(describe(found))
    else:
        _show(found)
    return int(not found.ok)


def describe(found: Diagnosis) -> dict[str, object]:
    """A diagnosis as JSON has it."""
    return {
        "queue": found.url,
        "ok": found.ok,
        "can_lose": redact(found.can_lose),
        "findings": [{name: redact(text) for name, text in asdict(each).items()} for each in found.findings],
        "capabilities": describe_capabilities(found.capabilities),
    }


def _show(found: Diagnosis) -> None:
    put(f"queue: {found.url}")
    if found.capabilities.server:
        put(f"server: {found.capabilities.server}")
    put(redact(found.can_lose))
    if found.findings:
        rows = [(each.severity, redact(each.text), redact(each.remedy)) for each in found.findings]
        put_table(("severity", "finding", "remedy"), rows)
