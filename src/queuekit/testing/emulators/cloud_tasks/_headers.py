# SPDX-License-Identifier: Apache-2.0
"""Headers of a task's request: which are taken, which the service sets itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from queuekit.testing.emulators.cloud_tasks._refusing import invalid

USER_AGENT = "Google-Cloud-Tasks"
_SIZE_LIMIT = 80 * 1024
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z\-]+")
_NOT_IN_VALUES = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# The service's own, and those of the connection, which a task must not be able to speak for.
_IGNORED = frozenset(
    (
        *("host", "content-length", "user-agent", "connection", "keep-alive", "proxy-authenticate", "te", "trailer"),
        *("proxy-authorization", "proxy-connection", "transfer-encoding", "upgrade", "expect"),
    )
)
_IGNORED_PREFIXES = ("x-google-", "x-appengine-", "x-cloudtasks-")


def check(headers: Mapping[str, str], of: str = "HttpRequest") -> None:
    """Check names, values and their size.

    Raises:
        Refused: They cannot be sent, or are 80 KB or more.
    """
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None:
            raise invalid(f"{of}.headers has a name that is not one of an HTTP header: {name[:100]!r}.")
        if _NOT_IN_VALUES.search(value):
            raise invalid(f"{of}.headers has a value with a control character: that of {name[:100]!r}.")
    if sum(len(name) + len(value.encode()) for name, value in headers.items()) >= _SIZE_LIMIT:
        raise invalid(f"The size of {of}.headers must be less than 80KB.")


def taken(headers: Mapping[str, str]) -> dict[str, str]:
    """What remains of the headers of a task."""
    return {name: value for name, value in headers.items() if not _is_ignored(name.lower())}


def _is_ignored(name: str) -> bool:
    return name in _IGNORED or name.startswith(_IGNORED_PREFIXES)
