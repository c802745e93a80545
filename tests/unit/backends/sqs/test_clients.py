# SPDX-License-Identifier: Apache-2.0
"""What a request says of the program that sends it."""

from typing import Any

import botocore
import pytest
from botocore.awsrequest import AWSResponse

from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL, SystemClock


def agent_of_a_request(monkeypatch: pytest.MonkeyPatch) -> str:
    """The header of a request that is answered here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    agents: list[str] = []

    def answer(request: Any, **_: Any) -> Any:
        agents.append(request.headers["User-Agent"].decode())
        unused: Any = {}
        response: Any = AWSResponse(request.url, 200, unused, unused)
        response._content = b"{}"
        return response

    opener = Opener(SystemClock())
    backend: Any = opener.open(QueueURL.parse("sqs://eu-west-1/orders"))
    client = backend._clients.calling()
    client.meta.events.register("before-send.sqs.ListQueues", answer)
    client.list_queues()
    backend.close()
    opener.close()
    return agents[0]


def test_it_is_named_as_boto3_names_it_and_queuekit_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SDK_UA_APP_ID", raising=False)
    agent = agent_of_a_request(monkeypatch)
    assert agent.startswith("Boto3/")
    assert agent.endswith(f" Botocore/{botocore.__version__} queuekit")
    assert (agent.count(" Botocore/"), agent.count("queuekit")) == (1, 1)
    assert "lang/python#" in agent


def test_the_id_that_somebody_gave_to_the_application_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SDK_UA_APP_ID", "shop")
    assert "app/shop" in agent_of_a_request(monkeypatch).split()
