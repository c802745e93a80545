# SPDX-License-Identifier: Apache-2.0
"""Resource names: their forms, and what is said of one that has another."""

from __future__ import annotations

import re

from queuekit.testing.emulators.cloud_tasks._refusing import Refused, invalid

_LOCATION = r"projects/[A-Za-z0-9:.\-]+/locations/[A-Za-z0-9\-]+"
_LOCATION_NAME = re.compile(_LOCATION)
_QUEUE_NAME = re.compile(rf"({_LOCATION})/queues/[A-Za-z0-9\-]{{1,100}}")
_TASK_NAME = re.compile(rf"({_LOCATION}/queues/[A-Za-z0-9\-]{{1,100}})/tasks/[A-Za-z0-9_\-]{{1,500}}")
_QUEUE_FORM = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>"'
_TASK_FORM = (
    'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>"'
)


def check_location(name: str) -> str:
    """A location's own name.

    Raises:
        Refused: It has another form.
    """
    if _LOCATION_NAME.fullmatch(name) is None:
        raise invalid('Location name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>"')
    return name


def location_of(queue: str) -> str:
    """The location of a queue.

    Raises:
        Refused: The queue's name has another form.
    """
    match = _QUEUE_NAME.fullmatch(queue)
    if match is None:
        raise invalid(_QUEUE_FORM)
    return match[1]


def queue_of(task: str) -> str:
    """The queue of a task.

    Raises:
        Refused: The task's name has another form.
    """
    match = _TASK_NAME.fullmatch(task)
    if match is None:
        raise invalid(_TASK_FORM)
    return match[1]


def mismatch(parent: str, named: str) -> Refused:
    """A task was named for one queue and given to another."""
    return invalid(
        f'The queue name from request ("{parent}") must be the same as the queue name in the named task ("{named}").'
    )


def short(name: str) -> str:
    """The last part of a name, which is its id."""
    return name.rpartition("/")[2]
