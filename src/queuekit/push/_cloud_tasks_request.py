# SPDX-License-Identifier: Apache-2.0
"""The requests that Google Cloud Tasks makes for messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from queuekit._portable.doorway import Named
from queuekit.push._requests import Refusal, Request

SCHEME: Final = "cloudtasks"
_QUEUE: Final = "x-cloudtasks-queuename"
_AGENT: Final = "google-cloud-tasks"


class TaskQueue(NamedTuple):
    """The queue that a task was pushed from.

    Attributes:
        name: Its name, without that of its project and location, which the service does not tell.
    """

    name: str

    def is_behind(self, named: Named) -> bool:
        """Whether handlers mean a queue of this name."""
        return named.url is not None and named.url.scheme == SCHEME and _queue_of(named) == self.name

    def among(self, known: Sequence[Named], path: str) -> Named | None:
        """The queue that handlers mean; of several with this name, that whose target has the request's path.

        Raises:
            Refusal: There are several all the same.
        """
        found = [each for each in known if self.is_behind(each)]
        if len(found) > 1:
            found = [each for each in found if _is_below(each, path)]
            if len(found) != 1:
                reason = f"several queues are called {self.name!r}; give their targets paths of their own"
                raise Refusal(404, reason)
        return found[0] if found else None


def is_task(request: Request) -> bool:
    """Whether a request is one of Cloud Tasks.

    Of one that could be Pub/Sub's too, the service itself says whose it is: other headers may come from whoever made
    the task, or published the message.
    """
    headers = request.headers
    if _QUEUE not in headers:
        return False
    both = any(name.startswith("x-goog-pubsub-") for name in headers)
    return not both or headers.get("user-agent", "").lower().startswith(_AGENT)


def queue_behind(request: Request) -> TaskQueue:
    """The queue that a request of Cloud Tasks names."""
    return TaskQueue(request.headers[_QUEUE])


def _queue_of(named: Named) -> str:
    return "" if named.url is None else named.url.path.rpartition("/")[2]


def _is_below(named: Named, path: str) -> bool:
    """Whether a queue's target ends with a path below the place where the application is mounted."""
    told = named.options.get("target") or ("" if named.url is None else named.url.options.get("target", ""))
    target = urlsplit(str(told)).path.strip("/")
    return target == path or (bool(path) and target.endswith(f"/{path}"))
