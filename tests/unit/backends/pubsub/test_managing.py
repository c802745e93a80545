# SPDX-License-Identifier: Apache-2.0
"""What is asked for when a queue is made; an emulator does not tell all of it again."""

from typing import Any

from queuekit.backends.pubsub._managing import create
from queuekit.backends.pubsub._options import Names, PubSubOptions, subscription_path, topic_path


def test_no_subscription_that_is_made_expires_when_nobody_uses_it() -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    made = [topic_path("shop", "orders"), subscription_path("shop", "orders")]
    dead = [topic_path("shop", "orders-dead"), subscription_path("shop", "orders-dead")]
    names = Names(project="shop", topic=made[0], subscription=made[1], dead_topic=dead[0], dead_subscription=dead[1])
    create(lambda operation, request: asked.append((operation, request)), names, PubSubOptions())
    subscriptions = [request for operation, request in asked if operation == "CreateSubscription"]
    assert {each["name"] for each in subscriptions} == {made[1], dead[1]}
    # Google's default removes one after 31 days; there and empty is never.
    assert [each.get("expiration_policy") for each in subscriptions] == [{}, {}]
