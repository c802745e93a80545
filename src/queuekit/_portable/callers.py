# SPDX-License-Identifier: Apache-2.0
"""Who calls an endpoint that messages are pushed to, and whether he may; decided before his body is read."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol


class Caller(NamedTuple):
    """What is known of a request before its body is read.

    Attributes:
        authorization: The one ``Authorization`` header; None where there is none, or more than one.
        server: The address that the connection came in on; empty where it is no IP address.
        client: The address that it came from; empty where it is not known.
        headers: The names of all headers, in lower case.
    """

    authorization: str | None
    server: str
    client: str
    headers: frozenset[str]


class Admission(NamedTuple):
    """What an endpoint does with a caller.

    Attributes:
        status: 200 lets him in; 401 and 403 do not; 503 could not be decided.
        reason: Why not, for the log; nothing of his token.
        learn: Whether `Auth.learn` is worth calling: ``now``, and then judge again; ``later``, beside the request.
    """

    status: Literal[200, 401, 403, 503]
    reason: str = ""
    learn: Literal["", "now", "later"] = ""


class Auth(Protocol):
    """Judges callers. `queuekit.push.OIDC` and `queuekit.push.NoAuth` are the ones that there are.

    Concurrency:
        Safe from any thread.
    """

    def judge(self, caller: Caller) -> Admission:
        """Say whether a caller may push. Never blocks."""
        ...

    def learn(self) -> None:
        """Learn what `judge` lacked; may block for some seconds. Never raises."""
        ...
