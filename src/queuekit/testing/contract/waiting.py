# SPDX-License-Identifier: Apache-2.0
"""Cases that wait for a part of queuekit, or for a backend, that is not there yet; each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PUSH = "a backend that pushes"


def _numbered(group: str, numbers: Iterable[int], reason: str) -> dict[str, str]:
    return {f"{group}-{number:02}": reason for number in numbers}


WAITING: Mapping[str, str] = {
    **_numbered("PSH", range(1, 10), _PUSH),
}
"""A case leaves this table in the change that brings its test; a test compares both with the promised IDs."""
