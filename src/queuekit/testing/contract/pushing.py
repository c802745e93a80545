# SPDX-License-Identifier: Apache-2.0
"""What the hook ``push`` of a harness gives: messages that are really pushed, and what was answered for each."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, Self

import pytest

from queuekit._portable.app import App
from queuekit._values.errors import UsageError
from queuekit.push import OIDC
from queuekit.testing.contract.harness import REAL_LIMIT_S
from queuekit.testing.issuer import LocalIssuer
from queuekit.testing.local_lambda import Context, Mapped
from queuekit.testing.serving import Serving

AUDIENCE = "https://worker.example/push"
ACCOUNT = "pusher@example.com"


class Pushing(Protocol):
    """An app whose queues' messages are pushed to it."""

    def wait_for(self, count: int) -> Sequence[bool]:
        """Of the first so many pushes, in order, whether the service takes each for done; waits for them."""
        ...

    def strangers(self) -> Sequence[bool]:
        """Push as somebody who may not; whether each try was refused."""
        ...

    def garbage(self, body: bytes) -> bool | None:
        """Push these bytes in place of a message; whether that is taken for done. None where nobody can."""
        ...


class FunctionPushing:
    """A function of AWS Lambda, mapped to queues of a local SQS.

    Args:
        client: boto3's.
        queues: The names of the queues.
        app: Whose handlers run.
        deadline_s: The function's timeout; None is the longest that there is.
    """

    def __init__(self, client: Any, queues: Sequence[str], app: App, *, deadline_s: float | None) -> None:
        settings = {} if deadline_s is None else {"margin": _seconds(deadline_s / 3)}
        self._function: Any = app.aws_lambda(**settings)
        context = Context(900.0 if deadline_s is None else deadline_s)
        # Of each event its messages are one push each.
        self._mapped = [Mapped(client, queue, self._function, batch=1, context=context) for queue in queues]
        self._changed = threading.Condition()
        self._answers: list[bool] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def wait_for(self, count: int) -> Sequence[bool]:
        """See `Pushing.wait_for`."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._answers) >= count, REAL_LIMIT_S):
                pytest.fail(f"{len(self._answers)} messages were pushed, and {count} were expected")
            return self._answers[:count]

    def strangers(self) -> Sequence[bool]:
        """Whoever may call a function is decided by AWS; what can be forged is the event of another source."""
        record = {"messageId": "1", "receiptHandle": "1", "body": "x", "eventSource": "aws:sns", "attributes": {}}
        return [self._refuses({"Records": [record]}), self._refuses({"Records": "x"}), self._refuses({})]

    def garbage(self, body: bytes) -> bool | None:  # noqa: ARG002 - as every pushing has it
        """An event is no bytes."""
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(REAL_LIMIT_S)

    def _refuses(self, event: Mapping[str, Any]) -> bool:
        try:
            self._function(event, Context())
        except UsageError:
            return True
        return False

    def _poll(self) -> None:
        while not self._closing.is_set():
            for each in self._mapped:
                each.turn(wait_s=0)
                with self._changed:
                    self._answers += each.take_answers()
                    self._changed.notify_all()
            self._closing.wait(0.05)


class EndpointPushing:
    """An app behind HTTP, to which a service pushes, or an emulator of it that cannot sign.

    Args:
        app: Whose handlers run.
        deadline_s: For how long the answer is awaited; None asks the queue.
        flaw: Stands around the application, to break it.
        auth: Who may push; by default whoever has a token of an issuer on this host. What comes without one is given
            one, as the service would, unless it says that it is a stranger.

    Attributes:
        url: Where messages are to be pushed to.
    """

    def __init__(
        self, app: App, *, deadline_s: float | None, flaw: Callable[[Any], Any] = lambda it: it, auth: Any = None
    ) -> None:
        self._issuer = LocalIssuer()
        known = OIDC(
            audience=AUDIENCE, service_account=ACCOUNT, issuer=self._issuer.url, certs_url=self._issuer.certs_url
        )
        deadline = None if deadline_s is None else _seconds(deadline_s)
        self._application = flaw(app.asgi(auth=auth or known, deadline=deadline))
        self._serving = Serving(self._signed)
        self.url: str = self._serving.url

    def wait_for(self, count: int) -> Sequence[bool]:
        """See `Pushing.wait_for`."""
        try:
            self._serving.wait_for(count, within_s=REAL_LIMIT_S)
        except TimeoutError as error:
            pytest.fail(str(error))
        return [200 <= each.status < 300 for each in self._serving.answers if "x-stranger" not in each.headers][
            :count
        ]

    def strangers(self) -> Sequence[bool]:
        """Without a token, with one for somebody else, and with headers that only look like the service's."""
        forged = [
            {},
            {"Authorization": f"Bearer {self._issuer.token('https://other.example', ACCOUNT)}"},
            {"Authorization": f"Bearer {self._issuer.token(AUDIENCE, 'other@example.com')}"},
            {"X-CloudTasks-QueueName": "orders", "X-CloudTasks-TaskName": "1"},
            {"User-Agent": "Google-Cloud-Tasks", "X-Goog-Pubsub-Subscription-Name": "orders"},
        ]
        return [self._post(b"{}", {"X-Stranger": "1"} | each) in {401, 403} for each in forged]

    def garbage(self, body: bytes) -> bool | None:
        """See `Pushing.garbage`."""
        return 200 <= self._post(body, {}) < 300

    def __enter__(self) -> Self:
        self._issuer.start()
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.stop()
        self._issuer.close()

    def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        wanted = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url, body, wanted, method="POST")  # noqa: S310 - of this host
        try:
            with urllib.request.urlopen(request, timeout=REAL_LIMIT_S) as answer:  # noqa: S310 - as above
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)

    async def _signed(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        if scope["type"] == "http" and not names & {b"authorization", b"x-stranger"}:
            token = f"Bearer {self._issuer.token(AUDIENCE, ACCOUNT)}".encode()
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", token)]}
        await self._application(scope, receive, send)


def wrapped_of(subscription: str, message: Mapping[str, Any]) -> bytes:
    """The body of a request that pushes a message of Pub/Sub."""
    return json.dumps({"message": message, "subscription": subscription}).encode()


def _seconds(length_s: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=length_s)
