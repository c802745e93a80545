# SPDX-License-Identifier: Apache-2.0
"""What URLs of Google's services have alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

from queuekit.backend import InvalidURLError, QueueURL

ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
"""A host, and perhaps a port."""

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a service is. Backends with equal ones share a channel.

    Attributes:
        address: Host and port.
        secure: Whether it is reached by TLS, with credentials.
        connect_s: Longest time for connecting.
        answer_s: Longest time for an answer.
    """

    address: str
    secure: bool
    connect_s: float
    answer_s: float


def project_of(url: QueueURL, form: str) -> str:
    """The project, which stands where others have a host.

    Args:
        url: The queue's.
        form: How such a URL is written, for the error.

    Raises:
        InvalidURLError: It names none, or has a login.
    """
    if len(url.hosts) != 1 or url.hosts[0].port is not None or not _PROJECT.fullmatch(url.hosts[0].name):
        msg = f"a {url.scheme} URL names one project where others have a host; the form is {form}"
        raise InvalidURLError(msg)
    if url.user is not None or url.password is not None:
        msg = f"a {url.scheme} URL takes no login; credentials come from Google's application default credentials"
        raise InvalidURLError(msg)
    return url.hosts[0].name
