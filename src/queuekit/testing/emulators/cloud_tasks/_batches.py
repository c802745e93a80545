# SPDX-License-Identifier: Apache-2.0
"""BatchCreateTasks and BatchDeleteTasks: operations that are over when they are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from queuekit.testing.emulators.cloud_tasks._book import Book
from queuekit.testing.emulators.cloud_tasks._messages import (
    BatchCreateTasksMetadata,
    BatchCreateTasksResponse,
    BatchDeleteTasksMetadata,
    Empty,
    Operation,
    stamp,
)
from queuekit.testing.emulators.cloud_tasks._names import location_of, queue_of
from queuekit.testing.emulators.cloud_tasks._refusing import Code, Refused, invalid

_MOST_CREATED, _MOST_CREATED_BYTES = 100, 10 << 20
_MOST_DELETED = 1000
_KNOWN_S = 7 * 86_400


class Batches:
    """The operations of the last seven days. They are not in the emulator's file.

    Args:
        new_id: Makes the id of an operation.

    Concurrency:
        One thread at a time.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._operations: dict[str, tuple[float, Any]] = {}
        self._asked: dict[tuple[str, str], str] = {}

    def create(self, book: Book, request: Any, now: float) -> Any:
        """Create tasks, as far as each is right.

        Raises:
            Refused: The batch is too large, or for several queues; none was created.
        """
        location_of(request.parent)
        if not 1 <= len(request.requests) <= _MOST_CREATED:
            raise invalid("BatchCreateTasksRequest.requests must have from 1 to 100 entries.")
        if request.ByteSize() > _MOST_CREATED_BYTES:
            raise invalid("BatchCreateTasksRequest must have at most 10 MiB.")
        if any(each.parent != request.parent for each in request.requests):
            raise invalid("The parent of each CreateTaskRequest must be that of the BatchCreateTasksRequest.")

        def perform(operation: Any) -> None:
            metadata, response = BatchCreateTasksMetadata(), BatchCreateTasksResponse()
            calls = [_creating(book, request.parent, each, response, now) for each in request.requests]
            _finish(operation, metadata, calls, response, now)

        return self._once("create", request, perform, now)

    def delete(self, book: Book, request: Any, now: float) -> Any:
        """Delete tasks, as far as each is there.

        Raises:
            Refused: The batch is too large, or for several queues; none was deleted.
        """
        location_of(request.parent)
        if not 1 <= len(request.names) <= _MOST_DELETED:
            raise invalid("BatchDeleteTasksRequest.names must have from 1 to 1000 entries.")
        if any(queue_of(name) != request.parent for name in request.names):
            raise invalid("The queue of each name must be the parent of the BatchDeleteTasksRequest.")

        def perform(operation: Any) -> None:
            calls = [_deleting(book, name, now) for name in request.names]
            _finish(operation, BatchDeleteTasksMetadata(), calls, Empty(), now)

        return self._once("delete", request, perform, now)

    def get(self, name: str, now: float) -> Any:
        """An operation.

        Raises:
            Refused: There is no such operation.
        """
        made, operation = self._operations.get(name, (float("-inf"), None))
        if now - made > _KNOWN_S:
            raise Refused(Code.NOT_FOUND, "Operation does not exist.")
        return operation

    def _once(self, kind: str, request: Any, perform: Callable[[Any], None], now: float) -> Any:
        asked = (f"{kind} {request.parent}", request.request_id)
        name = self._asked.get(asked, "") if request.request_id else ""
        made, operation = self._operations.get(name, (float("-inf"), None))
        if now - made <= _KNOWN_S:
            return operation
        operation = Operation(name=f"{location_of(request.parent)}/operations/{self._new_id()}")
        perform(operation)
        self._operations[operation.name] = (now, operation)
        if request.request_id:
            self._asked[asked] = operation.name
        return operation


def _creating(book: Book, parent: str, request: Any, response: Any, now: float) -> Callable[[], None]:
    def create() -> None:
        response.tasks.append(book.create_task(parent, request.task, request.response_view, now))

    return create


def _deleting(book: Book, name: str, now: float) -> Callable[[], None]:
    def delete() -> None:
        book.delete_task(name, now)

    return delete


def _finish(operation: Any, metadata: Any, calls: Sequence[Callable[[], None]], response: Any, now: float) -> None:
    for index, call in enumerate(calls):
        try:
            call()
        except Refused as refused:
            metadata.failed_requests[index].code = refused.code
            metadata.failed_requests[index].message = refused.message
    kind = type(metadata).__name__
    states = metadata.DESCRIPTOR.enum_types_by_name["State"].values_by_name
    failed = len(metadata.failed_requests)
    metadata.state = states["PARTIALLY_SUCCEEDED" if failed else "SUCCEEDED"].number
    stamp(metadata.start_time, now)
    stamp(metadata.end_time, now)
    operation.done = True
    if failed == len(calls):
        operation.error.code = Code.ABORTED
        operation.error.message = (
            f"None of the requests succeeded, refer to {kind}.failed_requests for individual error details"
        )
    else:
        operation.response.Pack(response)
    operation.metadata.Pack(metadata)
