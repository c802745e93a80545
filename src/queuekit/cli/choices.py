# SPDX-License-Identifier: Apache-2.0
"""What the options of the command line may be; apart, so that showing help imports nothing heavy."""

from enum import StrEnum


class LogLevel(StrEnum):
    """How much a worker tells."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class BodyKind(StrEnum):
    """What the body of a message is, and so which payload types can read it."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"
