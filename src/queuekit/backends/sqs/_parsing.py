# SPDX-License-Identifier: Apache-2.0
"""The messages of an answer, which are JSON text, without a walk along botocore's model of them.

The walk calls three functions for each value, most of them texts that stay as they are: a seventh of the processor
time of a receive. Where an answer is not plainly what this knows, nothing is done, and botocore reads it as ever.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any


def read_messages_by(register: Callable[[str, Callable[..., None]], None]) -> None:
    """Have the answers to ``ReceiveMessage`` read here.

    Args:
        register: That of the events of botocore's client.
    """
    register("before-parse.sqs.ReceiveMessage", _before_parse)


def _before_parse(
    response_dict: dict[str, Any] | None = None, customized_response_dict: dict[str, Any] | None = None, **_: Any
) -> None:
    if response_dict is None or customized_response_dict is None:
        return
    messages = _messages(response_dict)
    if messages:
        response_dict["body"] = b"{}"
        customized_response_dict["Messages"] = messages


def _messages(answer: dict[str, Any]) -> list[Any]:
    """What is in the answer; nothing where it is of another kind than a success in JSON."""
    kind = str(answer["headers"].get("content-type"))
    if answer["status_code"] != 200 or not kind.startswith("application/x-amz-json"):
        return []
    try:
        messages: list[Any] = json.loads(answer["body"])["Messages"]
        for message in messages:
            for attribute in (message.get("MessageAttributes") or {}).values():
                if attribute.get("BinaryValue") is not None:
                    attribute["BinaryValue"] = base64.b64decode(attribute["BinaryValue"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return messages
