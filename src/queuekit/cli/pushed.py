# SPDX-License-Identifier: Apache-2.0
"""``queuekit worker`` on queues whose messages are pushed: it serves them by HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from queuekit import App, ExitCode, QueueKitError, UsageError
from queuekit._portable.callers import Auth
from queuekit._values.hosts import is_loopback
from queuekit.push import OIDC, NoAuth
from queuekit.push._server import serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the messages of push-only queues are served.

    Attributes:
        host: The address to listen on.
        port: The port.
        audience: What tokens must be made for.
        service_account: On whose behalf.
        issuer: Who makes them; empty for Google.
        certs_url: Where the issuer's keys are; empty for Google's.
        deadline: For how long answers are awaited; None asks each queue.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    audience: Sequence[str] = ()
    service_account: Sequence[str] = ()
    issuer: str = ""
    certs_url: str = ""
    deadline: timedelta | None = None

    def auth(self) -> Auth:
        """Who may push.

        Raises:
            UsageError: Everybody could reach it, and nobody says who may.
        """
        if self.audience or self.service_account:
            named: dict[str, Any] = {"issuer": self.issuer, "certs_url": self.certs_url}
            return OIDC(
                audience=self.audience,
                service_account=self.service_account,
                **{name: text for name, text in named.items() if text},
            )
        if not is_loopback(self.host):
            msg = (
                f"at {self.host} anybody could push; say who may by --audience and --service-account, or listen on "
                "127.0.0.1"
            )
            raise UsageError(msg)
        return NoAuth()


def pushed_queues(app: App, queues: Sequence[str]) -> bool:
    """Whether the messages of these queues are pushed; asks those that could be either.

    Raises:
        UsageError: Those of some are, and those of others are not.
    """
    known = dict.fromkeys(each.queue for each in app.handlers)
    # A queue that no handler works is refused by whatever is started for the others.
    found = {name: _is_pushed(app, name) for name in known if not queues or name in queues}
    if len(set(found.values())) > 1:
        names = ", ".join(sorted(name for name, pushed in found.items() if pushed))
        msg = f"messages of {names} are pushed, and others must be fetched; run two workers, each with its --queue"
        raise UsageError(msg)
    return any(found.values())


def serve_pushed(app: App, queues: Sequence[str], serving: Serving) -> ExitCode:
    """Serve the queues until told to stop.

    Raises:
        QueueKitError: They cannot be served.
    """
    auth = serving.auth()
    endpoint = app.asgi(auth=auth, deadline=serving.deadline, queues=list(queues) or None)
    serve(app, endpoint, host=serving.host, port=serving.port, drain_s=app._drain_s)  # noqa: SLF001 - one package
    return ExitCode.DRAINED


def _is_pushed(app: App, name: str) -> bool:
    link, _ = app.open_queue(name)
    try:
        can = link.capabilities
        if can.pushes != "answered":
            return False
        return not (can.receives and link.guard.probe().receives)
    except QueueKitError:
        return False  # the worker meets the same, and says why
    finally:
        link.backend.close()
