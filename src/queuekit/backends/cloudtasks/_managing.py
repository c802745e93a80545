# SPDX-License-Identifier: Apache-2.0
"""Making a queue, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from queuekit.backends._google.errors import UnlessStatus
from queuekit.backends.cloudtasks._errors import DifferentSettingsError
from queuekit.backends.cloudtasks._options import CloudTasksOptions

_PAUSED = 2


class Settings(NamedTuple):
    """A queue's settings, as far as they matter here.

    Attributes:
        rate: Dispatches a second at most.
        max_concurrent: Calls at once at most.
        max_dispatches: After how many calls a task is given up; 0 where it never is.
        max_retry_s: And not before so long after its first call; 0 for no such limit.
        min_backoff_s: The service's own wait before it calls again.
        max_backoff_s: Up to how long it grows.
        paused: Whether it dispatches nothing.
    """

    rate: float
    max_concurrent: int
    max_dispatches: int
    max_retry_s: float
    min_backoff_s: float
    max_backoff_s: float
    paused: bool


def settings_of(queue: Any) -> Settings:
    """Read a queue, without the wrapper of Google's client."""
    limits, retries = queue.rate_limits, queue.retry_config
    return Settings(
        rate=limits.max_dispatches_per_second,
        max_concurrent=limits.max_concurrent_dispatches,
        max_dispatches=max(0, retries.max_attempts),
        max_retry_s=_seconds(retries.max_retry_duration),
        min_backoff_s=_seconds(retries.min_backoff),
        max_backoff_s=_seconds(retries.max_backoff),
        paused=queue.state == _PAUSED,
    )


def create(call: Callable[..., Any], name: str, options: CloudTasksOptions) -> None:
    """Make a queue.

    Raises:
        DifferentSettingsError: It exists, with other settings.
    """
    queue = {
        "name": name,
        "rate_limits": {
            "max_dispatches_per_second": options.rate,
            "max_concurrent_dispatches": options.max_concurrent,
        },
        "retry_config": {
            "max_attempts": options.max_dispatches or -1,
            "min_backoff": options.min_backoff,
            "max_backoff": options.max_backoff,
        },
    }
    with UnlessStatus("ALREADY_EXISTS"):
        call("create_queue", {"parent": name.partition("/queues/")[0], "queue": queue})
        return
    different = ", ".join(_differences(settings_of(call("get_queue", {"name": name})), options))
    if different:
        msg = f"the queue exists, and differs in {different}; change it there, or open it as it is"
        raise DifferentSettingsError(msg)


def _differences(have: Settings, options: CloudTasksOptions) -> Iterator[str]:
    pairs = {
        "rate": (have.rate, options.rate),
        "max_concurrent": (have.max_concurrent, options.max_concurrent),
        "max_dispatches": (have.max_dispatches, options.max_dispatches),
        "min_backoff": (have.min_backoff_s, float(int(options.min_backoff.total_seconds()))),
        "max_backoff": (have.max_backoff_s, float(int(options.max_backoff.total_seconds()))),
    }
    yield from (name for name, (there, asked) in pairs.items() if there != asked)


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos / 1e9
    return seconds
