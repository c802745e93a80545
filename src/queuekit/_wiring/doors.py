# SPDX-License-Identifier: Apache-2.0
"""The front doors of an app beside its worker, by name: they stand on a floor above the app."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DOORS: Mapping[str, str] = MappingProxyType(
    {
        "asgi": "queuekit.push.asgi:PushEndpoint",
        "asgi_options": "queuekit.push.asgi:EndpointOptions",
        "aws_lambda": "queuekit.push.aws_lambda:LambdaHandler",
    }
)
"""Name to ``module:attribute``."""


def find_door(name: str) -> Any:
    """What makes a door."""
    module, _, attribute = DOORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
