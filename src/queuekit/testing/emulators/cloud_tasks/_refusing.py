# SPDX-License-Identifier: Apache-2.0
"""What the service answers when it declines."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The codes of ``google.rpc``, which are also those of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Refused(Exception):  # noqa: N818 - an answer, not an error of the emulator
    """The call is declined.

    Args:
        code: The status.
        message: The sentence beside it.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    """The request itself is wrong, whatever the state of the service."""
    return Refused(Code.INVALID_ARGUMENT, message)


_OF_STATUS = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    416: Code.OUT_OF_RANGE,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def code_of(http_status: int) -> Code:
    """What an answer over HTTP is called in a task's last attempt; the mapping is that of ``google.rpc.Code``."""
    return Code.OK if 200 <= http_status < 300 else _OF_STATUS.get(http_status, Code.UNKNOWN)
