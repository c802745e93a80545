# SPDX-License-Identifier: Apache-2.0
"""``examples/lambda-sqs``: its function works, and its Terraform says what its function needs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import hcl2
import pytest

import queuekit as qk
from queuekit.testing.local_lambda import REGION

from .conftest import Map, until_empty

FOLDER = Path(__file__).parents[3] / "examples" / "lambda-sqs"


def test_its_function_works_a_queue(
    server: Any, client: Any, mapped: Map, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("orders", "orders-dead"):
        client.create_queue(QueueName=name)
    endpoint = f"?endpoint={server.endpoint}"
    monkeypatch.setenv("QUEUEKIT_URL", f"sqs://{REGION}{endpoint}")
    monkeypatch.setenv("ORDERS_DEAD", f"sqs://{REGION}/orders-dead{endpoint}")
    shop = runpy.run_path(str(FOLDER / "shop.py"))
    with shop["app"], caplog.at_level("INFO", "shop"):
        order = shop["Order"]
        shop["charge"].send_many([order(number=1, cents=1250), order(number=2, cents=0)]).raise_for_failures()
        until_empty(mapped("orders", shop["handler"]))
    assert "order 1: charged 12.50" in caplog.text
    with qk.Consumer(f"sqs://{REGION}/orders-dead{endpoint}&poll=1s", payload=order) as letters:
        letter = letters.receive(timeout=10)
        assert letter is not None
        assert letter.payload.number == 2
        letter.ack()


@pytest.fixture(scope="module")
def terraform() -> dict[str, Any]:
    parsed: dict[str, Any] = hcl2.loads((FOLDER / "main.tf").read_text("utf-8"))
    return parsed


def resource(terraform: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """One resource; the parser keeps the quotes of what is quoted."""
    found = [
        block
        for each in terraform["resource"]
        for kind_, blocks in each.items()
        for name_, block in blocks.items()
        if (plain(kind_), plain(name_)) == (kind, name)
    ]
    assert len(found) == 1
    return dict(found[0])


def plain(text: Any) -> str:
    return str(text).strip('"')


def test_its_terraform_lets_the_function_have_the_first_word(terraform: dict[str, Any]) -> None:
    known = terraform["locals"][0]
    queue = resource(terraform, "aws_sqs_queue", "orders")
    assert "6 * local.function_timeout + local.batching_window" in queue["visibility_timeout_seconds"]
    assert "maxReceiveCount = local.max_receives" in queue["redrive_policy"]
    attempts = runpy.run_path(str(FOLDER / "shop.py"))["MAX_ATTEMPTS"]
    # Ten more: deliveries that came to nothing count, too.
    assert int(known["max_receives"]) > attempts + 10
    assert int(known["function_timeout"]) > 5


def test_its_terraform_maps_the_queue_with_partial_failures(terraform: dict[str, Any]) -> None:
    mapping = resource(terraform, "aws_lambda_event_source_mapping", "orders")
    assert [plain(each) for each in mapping["function_response_types"]] == ["ReportBatchItemFailures"]
    assert int(mapping["batch_size"]) > 10
    assert "batching_window" in mapping["maximum_batching_window_in_seconds"]
    assert int(mapping["scaling_config"][0]["maximum_concurrency"]) >= 2
    function = resource(terraform, "aws_lambda_function", "shop")
    assert plain(function["handler"]) == "shop.handler"


def test_its_terraform_permits_what_is_called(terraform: dict[str, Any]) -> None:
    policy = resource(terraform, "aws_iam_role_policy", "shop")["policy"]
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes", "ChangeMessageVisibility", "SendMessage"):
        assert f"sqs:{action}" in policy
