# SPDX-License-Identifier: Apache-2.0
"""The settings of a queue: defaults, limits, and updates by mask."""

from __future__ import annotations

from typing import Any

from queuekit.testing.emulators.cloud_tasks import _headers
from queuekit.testing.emulators.cloud_tasks._messages import RUNNING, Queue, seconds_of, stamp, truncate
from queuekit.testing.emulators.cloud_tasks._pace import burst_of
from queuekit.testing.emulators.cloud_tasks._refusing import invalid

_RATE, _MOST_RATE = 500.0, 500.0
_CONCURRENT, _MOST_CONCURRENT = 1000, 5000
_ATTEMPTS = 100
_DOUBLINGS = 16
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 3600.0


def new_queue(given: Any) -> Any:
    """A queue with every setting that was left out filled in.

    Raises:
        Refused: A setting is beyond its limits.
    """
    queue = Queue()
    queue.CopyFrom(given)
    queue.state = RUNNING
    queue.ClearField("purge_time")
    _complete(queue)
    return queue


def updated_queue(old: Any, given: Any, mask: Any) -> Any:
    """A queue after an update; what is output only stays as it is.

    Raises:
        Refused: The mask names what a queue has not, or a setting is beyond its limits.
    """
    queue = Queue()
    if mask.paths:
        if not mask.IsValidForDescriptor(Queue.DESCRIPTOR):
            raise invalid("The update_mask names a field that a Queue does not have.")
        queue.CopyFrom(old)
        mask.MergeMessage(given, queue, replace_message_field=True, replace_repeated_field=True)
    else:
        queue.CopyFrom(given)
    queue.name, queue.state = old.name, old.state
    queue.ClearField("purge_time")
    if old.HasField("purge_time"):
        queue.purge_time.CopyFrom(old.purge_time)
    _complete(queue)
    return queue


def complete_retries(config: Any) -> None:
    """Fill in what a retry config leaves out.

    Raises:
        Refused: A setting is beyond its limits.
    """
    config.max_attempts = config.max_attempts or _ATTEMPTS
    config.max_doublings = config.max_doublings or _DOUBLINGS
    _length(config, "min_backoff", _MIN_BACKOFF_S)
    _length(config, "max_backoff", _MAX_BACKOFF_S)
    if config.HasField("max_retry_duration"):
        _length(config, "max_retry_duration", 0)
    if config.max_attempts < -1:
        raise invalid("RetryConfig.max_attempts must be -1 or more.")
    if config.max_doublings < 0:
        raise invalid("RetryConfig.max_doublings must not be negative.")
    if seconds_of(config.min_backoff) > seconds_of(config.max_backoff):
        raise invalid("RetryConfig.min_backoff must not be more than RetryConfig.max_backoff.")


def _complete(queue: Any) -> None:
    limits = queue.rate_limits
    limits.max_dispatches_per_second = limits.max_dispatches_per_second or _RATE
    limits.max_concurrent_dispatches = limits.max_concurrent_dispatches or _CONCURRENT
    if not 0 < limits.max_dispatches_per_second <= _MOST_RATE:
        raise invalid("RateLimits.max_dispatches_per_second must be more than 0 and at most 500.")
    if not 0 < limits.max_concurrent_dispatches <= _MOST_CONCURRENT:
        raise invalid("RateLimits.max_concurrent_dispatches must be more than 0 and at most 5000.")
    limits.max_burst_size = burst_of(limits.max_dispatches_per_second)
    complete_retries(queue.retry_config)
    if queue.HasField("http_target"):
        _check_target(queue.http_target)


def _length(config: Any, name: str, default_s: float) -> None:
    if not config.HasField(name):
        stamp(getattr(config, name), default_s)
        return
    length = getattr(config, name)
    seconds = seconds_of(length)
    if seconds < 0:
        raise invalid(f"RetryConfig.{name} must not be negative.")
    # Documented as truncated to whole seconds; but the default is a tenth of one, so that such lengths must exist.
    truncate(length, 1_000_000_000 if seconds >= 1 else 1000)


def _check_target(target: Any) -> None:
    override = target.uri_override
    if override.HasField("host") and not override.host:
        raise invalid("UriOverride.host must not be empty.")
    if override.HasField("port") and not 0 <= override.port <= 65535:
        raise invalid("UriOverride.port must be from 1 to 65535, or 0 to clear it.")
    _headers.check({each.header.key: each.header.value for each in target.header_overrides}, "HttpTarget")
    match target.WhichOneof("authorization_header"):
        case "oidc_token" if not (target.oidc_token.service_account_email and target.oidc_token.audience):
            raise invalid("HttpTarget.oidc_token must have both service_account_email and audience.")
        case "oauth_token" if not (target.oauth_token.service_account_email and target.oauth_token.scope):
            raise invalid("HttpTarget.oauth_token must have both service_account_email and scope.")
        case _:
            pass
