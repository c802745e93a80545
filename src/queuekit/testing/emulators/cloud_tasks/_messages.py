# SPDX-License-Identifier: Apache-2.0
"""The messages of the service, as Google's own client has them: bare protobuf, without its slower wrappers."""

from __future__ import annotations

from typing import Any

from google.cloud import tasks_v2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import status_pb2

CreateQueueRequest: Any = tasks_v2.CreateQueueRequest.pb()
GetQueueRequest: Any = tasks_v2.GetQueueRequest.pb()
ListQueuesRequest: Any = tasks_v2.ListQueuesRequest.pb()
ListQueuesResponse: Any = tasks_v2.ListQueuesResponse.pb()
UpdateQueueRequest: Any = tasks_v2.UpdateQueueRequest.pb()
DeleteQueueRequest: Any = tasks_v2.DeleteQueueRequest.pb()
PurgeQueueRequest: Any = tasks_v2.PurgeQueueRequest.pb()
PauseQueueRequest: Any = tasks_v2.PauseQueueRequest.pb()
ResumeQueueRequest: Any = tasks_v2.ResumeQueueRequest.pb()
CreateTaskRequest: Any = tasks_v2.CreateTaskRequest.pb()
GetTaskRequest: Any = tasks_v2.GetTaskRequest.pb()
ListTasksRequest: Any = tasks_v2.ListTasksRequest.pb()
ListTasksResponse: Any = tasks_v2.ListTasksResponse.pb()
DeleteTaskRequest: Any = tasks_v2.DeleteTaskRequest.pb()
RunTaskRequest: Any = tasks_v2.RunTaskRequest.pb()
BatchCreateTasksRequest: Any = tasks_v2.BatchCreateTasksRequest.pb()
BatchCreateTasksResponse: Any = tasks_v2.BatchCreateTasksResponse.pb()
BatchCreateTasksMetadata: Any = tasks_v2.BatchCreateTasksMetadata.pb()
BatchDeleteTasksRequest: Any = tasks_v2.BatchDeleteTasksRequest.pb()
BatchDeleteTasksMetadata: Any = tasks_v2.BatchDeleteTasksMetadata.pb()
Queue: Any = tasks_v2.Queue.pb()
Task: Any = tasks_v2.Task.pb()
RetryConfig: Any = tasks_v2.RetryConfig.pb()
HttpMethod: Any = Task.DESCRIPTOR.fields_by_name["http_request"].message_type.fields_by_name["http_method"].enum_type
UriOverride: Any = tasks_v2.UriOverride.pb()
Empty: Any = empty_pb2.Empty
Operation: Any = operations_pb2.Operation
GetOperationRequest: Any = operations_pb2.GetOperationRequest
Status: Any = status_pb2.Status

BASIC, FULL = 1, 2
RUNNING, PAUSED = 1, 2
POST, GET = 1, 2
WITH_BODY = frozenset({1, 4, 6})
"""POST, PUT and PATCH: the methods that may have a body."""


def method_name(number: int) -> str:
    """As it stands in a request line."""
    name: str = HttpMethod.values_by_number[number].name
    return name


def seconds_of(stamp: Any) -> float:
    """Of a timestamp or a duration."""
    whole: float = stamp.seconds + stamp.nanos / 1e9
    return whole


def stamp(target: Any, seconds: float, *, nanos: int = 1000) -> None:
    """Set a timestamp, truncated to microseconds or to another number of nanoseconds."""
    # A quarter of a microsecond is what a float of today's time may be off by.
    whole, rest = divmod(int(seconds * 1e6 + 0.25), 1_000_000)
    target.seconds = whole
    target.nanos = rest * 1000 // nanos * nanos


def truncate(target: Any, nanos: int = 1000) -> None:
    """Cut a timestamp or a duration that others made; going by floats would lose a microsecond now and then."""
    target.nanos -= target.nanos % nanos
