# SPDX-License-Identifier: Apache-2.0
"""The calls of ``google.cloud.tasks.v2.CloudTasks``, over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from queuekit.testing.emulators.cloud_tasks import _messages as messages
from queuekit.testing.emulators.cloud_tasks._batches import Batches
from queuekit.testing.emulators.cloud_tasks._emulator import Emulator
from queuekit.testing.emulators.cloud_tasks._messages import PAUSED, RUNNING
from queuekit.testing.emulators.cloud_tasks._paging import filter_queues, page
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused

_MOST_QUEUES, _MOST_TASKS = 9800, 1000
_LARGEST_CALL = 16 << 20  # above the largest that is allowed, so that the answer says what is wrong with it
_THREADS = 16
_STATUS = {each: next(one for one in grpc.StatusCode if one.value[0] == each) for each in Code}


class Service:
    """Answers each call out of the emulator's book.

    Args:
        emulator: What keeps it.
        batches: The operations.
    """

    def __init__(self, emulator: Emulator, batches: Batches) -> None:
        self._emulator = emulator
        self._batches = batches

    def ListQueues(self, request: Any) -> Any:  # noqa: N802 - the names of the service
        with self._emulator.changing() as (book, now):
            queues = filter_queues(book.queues(request.parent), request.filter)
            shown, token = page(queues, request, most=_MOST_QUEUES, now=now, key=lambda queue: queue.name)
            return messages.ListQueuesResponse(queues=shown, next_page_token=token)

    def GetQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, _):
            return _copy(book.get_queue(request.name))

    def CreateQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return _copy(book.create_queue(request.parent, request.queue, now))

    def UpdateQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return _copy(book.update_queue(request.queue, request.update_mask, now))

    def DeleteQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return book.delete_queue(request.name, now)

    def PurgeQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return _copy(book.purge_queue(request.name, now))

    def PauseQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return _copy(book.set_state(request.name, PAUSED, now))

    def ResumeQueue(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return _copy(book.set_state(request.name, RUNNING, now))

    def ListTasks(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            entries = list(book.line(request.parent).entries.values())
            shown, token = page(entries, request, most=_MOST_TASKS, now=now, key=lambda entry: entry.number)
            tasks = [entry.show(request.response_view) for entry in shown]
        return messages.ListTasksResponse(tasks=tasks, next_page_token=token)

    def GetTask(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return book.get_task(request.name, request.response_view, now)

    def CreateTask(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return book.create_task(request.parent, request.task, request.response_view, now)

    def DeleteTask(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return book.delete_task(request.name, now)

    def RunTask(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            task, attempt = book.run_task(request.name, request.response_view, now)
        self._emulator.run(attempt)
        return task

    def BatchCreateTasks(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return self._batches.create(book, request, now)

    def BatchDeleteTasks(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (book, now):
            return self._batches.delete(book, request, now)

    def GetOperation(self, request: Any) -> Any:  # noqa: N802 - as above
        with self._emulator.changing() as (_, now):
            return self._batches.get(request.name, now)


_OPERATIONS = ("GetOperation",)
_CALLS = tuple(name for name in vars(Service) if name[0].isupper() and name not in _OPERATIONS)


def serve(service: Service, port: int) -> tuple[Any, int]:
    """Listen on the loopback interface. Returns the server and its port.

    Raises:
        RuntimeError: The port is in use.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="cloud-tasks-call"),
        # Two emulators on one port would each get some of the calls.
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _LARGEST_CALL)],
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(home, {name: _method(service, name) for name in names})
            for home, names in (
                ("google.cloud.tasks.v2.CloudTasks", _CALLS),
                ("google.longrunning.Operations", _OPERATIONS),
            )
        ]
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def _method(service: Service, name: str) -> Any:
    perform: Callable[[Any], Any] = getattr(service, name)

    def call(request: Any, context: Any) -> Any:
        try:
            return perform(request)
        except Refused as refused:
            context.abort(_STATUS[refused.code], refused.message)

    return grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=getattr(messages, f"{name}Request").FromString,
        response_serializer=_serialized,
    )


def _serialized(answer: Any) -> bytes:
    data: bytes = answer.SerializeToString()
    return data


def _copy(queue: Any) -> Any:
    # It is turned into bytes after the lock was left.
    copy = messages.Queue()
    copy.CopyFrom(queue)
    return copy
