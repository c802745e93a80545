# SPDX-License-Identifier: Apache-2.0
"""Make a queue, where the first use does not."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from queuekit._portable.link import open_link
from queuekit._values.clock import SystemClock
from queuekit._values.errors import UnsupportedError
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener
from queuekit.backend import Admin


def create_queue(url: str | QueueURL, **options: Any) -> str:
    """Make a queue with its settings, and what belongs to it, such as the queue for its dead letters.

    Redis, SQLite and memory make a queue at its first use. The services of a cloud do not, and queuekit never makes
    one there unasked: this asks. Where the queue is there with the same settings, nothing changes; another
    setting is refused, or changed, as the backend's page says. With ``?lanes=`` each lane's queue is made. It is
    tried once; how long a call may take is the URL's ``answer_timeout``, where the backend has that option.

    Args:
        url: The queue's URL.
        **options: URL options, under the same names; those that the backend's page marks "for `create`" are the
            settings of the queue.

    Returns:
        The queue's URL, redacted.

    Raises:
        SetupError: The URL or an option is wrong.
        UsageError: The URL names no queue.
        UnsupportedError: The backend cannot make queues. Make it where the service is administered.
        AccessDeniedError: The credentials do not allow it. Correct them, or have somebody else make it.
        UnavailableError: The service could not be reached. Try again; what was made is found again.
        ProviderError: The service refused for another reason.

    Concurrency:
        Safe from any thread; blocks the calling one.

    Examples:
        ```python
        create_queue("memory://orders")
        ```
    """
    opener = Opener(SystemClock())
    link = open_link(url, None, options, opener=opener)
    try:
        backend = link.backend
        if not isinstance(backend, Admin) or not link.capabilities.admin:
            msg = f"{link.shown} cannot be made by queuekit; make it where its service is administered"
            raise UnsupportedError(msg, queue=link.shown, operation="create")
        link.guard.call("create", backend.create)
        return link.shown
    finally:
        link.close()
        opener.close()


async def acreate_queue(url: str | QueueURL, **options: Any) -> str:
    """As `create_queue`, on a thread of the loop's executor.

    Raises:
        QueueKitError: As `create_queue` does.
    """
    return await asyncio.get_running_loop().run_in_executor(None, partial(create_queue, url, **options))
