# SPDX-License-Identifier: Apache-2.0
"""boto3's clients."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from queuekit.backends._per_process import PerProcess
from queuekit.backends.sqs._options import Place
from queuekit.backends.sqs._parsing import read_messages_by

LONGEST_POLL_S = 20

METHODS: Mapping[str, str] = {
    "CancelMessageMoveTask": "cancel_message_move_task",
    "ChangeMessageVisibilityBatch": "change_message_visibility_batch",
    "CreateQueue": "create_queue",
    "DeleteMessageBatch": "delete_message_batch",
    "DeleteQueue": "delete_queue",
    "GetQueueAttributes": "get_queue_attributes",
    "GetQueueUrl": "get_queue_url",
    "ListMessageMoveTasks": "list_message_move_tasks",
    "PurgeQueue": "purge_queue",
    "ReceiveMessage": "receive_message",
    "SendMessageBatch": "send_message_batch",
    "SetQueueAttributes": "set_queue_attributes",
    "StartMessageMoveTask": "start_message_move_task",
}
"""The operations that are used, as the service calls them, and what boto3 makes of the names."""

_NAME = "queuekit"
_WAITS_S = (1.0, 5.0)
_CONNECTIONS = 100
"""Beyond those that are open at once none is kept; fewer cost nothing."""


class Clients:
    """Two clients of one service: receives, which take their time, never hold up what settles or sends.

    boto3 finds the credentials in its own way. Its retries are one attempt: the engine retries, inside one budget.

    Args:
        place: Where the service is.

    Concurrency:
        Safe from any thread, and after a fork.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._own = PerProcess(lambda: _Session(place), _Session.close)

    def calling(self, timeout_s: float = math.inf) -> Any:
        """The client for what is answered at once.

        Args:
            timeout_s: What is left of the caller's time. botocore fixes the timeout of a client, so there are
                some to choose from; no call outlives this by more than a few seconds.
        """
        answer_s = self._place.answer_s
        wait_s = next((each for each in _WAITS_S if timeout_s <= each < answer_s), answer_s)
        return self._own.get().client(f"calling for {wait_s:g} s", wait_s)

    def polling(self) -> Any:
        """The client for receives that wait."""
        return self._own.get().client("polling", self._place.answer_s + self._place.poll_s)

    def close(self) -> None:
        """Close the connections that are idle. Idempotent."""
        self._own.close()


class _Session:
    """boto3's session and the clients of one process, each made at its first use.

    Args:
        place: Where the service is.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, place: Place) -> None:
        # Here, as AWS Lambda hands over messages without a call, and its functions begin sooner without boto3.
        import boto3.session

        self._place = place
        self._lock = threading.Lock()
        # Its own: boto3's default one is shared by the whole process, and not for several threads.
        self._session = boto3.session.Session()
        self._agent = _lasting_agent(self._make(place.answer_s, None))
        self._made: dict[str, Any] = {}

    def client(self, name: str, read_s: float) -> Any:
        """The client of a name.

        Args:
            name: What it is for.
            read_s: How long it waits for an answer.
        """
        client = self._made.get(name)
        if client is None:
            with self._lock:
                client = self._made.get(name)
                if client is None:
                    client = self._make(read_s, self._agent)
                    read_messages_by(client.meta.events.register)
                    self._made[name] = client
        return client

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            made, self._made = self._made, {}
        for each in made.values():
            each.close()

    def _make(self, read_s: float, agent: str | None) -> Any:
        from botocore.config import Config

        return self._session.client(
            "sqs",
            region_name=self._place.region,
            endpoint_url=self._place.endpoint or None,
            config=Config(
                connect_timeout=self._place.connect_s,
                read_timeout=read_s,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=_CONNECTIONS,
                parameter_validation=False,
                tcp_keepalive=True,
                user_agent=agent,
                user_agent_extra=_NAME,
            ),
        )


def _lasting_agent(client: Any) -> str | None:
    """The ``User-Agent`` for further clients; None where each request has to say more than that.

    botocore makes up its own anew for each request, twice, which takes a sixth of the processor time of a call. One
    that it was given stays as it is, but for the names of boto3 and of us, which it adds. It would leave out the id
    that somebody gave to an application, so that application goes without.
    """
    from botocore import __version__

    config = client.meta.config
    if config.user_agent_appid:
        return None
    return str(config.user_agent).removesuffix(f" {_NAME}").removesuffix(f" Botocore/{__version__}")
