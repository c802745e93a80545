# SPDX-License-Identifier: Apache-2.0
"""Stands between Google's client and the emulator, and refuses as the service does."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import grpc
from google import pubsub_v1
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from .gates import Gate

PUBLISH = "/google.pubsub.v1.Publisher/Publish"
ACKNOWLEDGE = "/google.pubsub.v1.Subscriber/Acknowledge"
MOST_TIMES = 4
"""That one lease is refused; each time its next try waits for longer."""


class Refusals(Gate):
    """A call that publishes is refused whole; of one that acknowledges, any number of leases, from none to all.

    What is refused never reaches the emulator. A few calls that publish are the sender's fault, and must not be
    tried again. Everything else passes.

    Args:
        server: The emulator's port.
        chance: Decides.
    """

    def __init__(self, server: int, chance: random.Random) -> None:
        super().__init__(server, {PUBLISH: self._publish, ACKNOWLEDGE: self._acknowledge})
        self._chance = chance
        self._lock = threading.Lock()
        self.sends = self.acks = self.refused_sends = self.refused_acks = 0
        self._times = Counter[str]()
        self.passed, self.faults = Counter[str](), Counter[str]()

    def _publish(self, method: str, request: bytes, context: Any) -> bytes:
        texts = [each.data.decode() for each in pubsub_v1.PublishRequest.pb().FromString(request).messages]
        with self._lock:
            self.sends += 1
            refused, fault = self._chance.random() < 0.4, self._chance.random() < 0.02
            self.refused_sends += refused or fault
            self.faults.update(texts if fault else ())
            self.passed.update(() if refused or fault else texts)
        if fault:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "One or more messages in the request are invalid.")
        if refused:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded.")
        return self.pass_on(method, request, context)

    def _acknowledge(self, method: str, request: bytes, context: Any) -> bytes:
        asked: Any = pubsub_v1.AcknowledgeRequest.pb().FromString(request)
        ack_ids = list(asked.ack_ids)
        with self._lock:
            known = [each for each in ack_ids if self._times[each] < MOST_TIMES]
            chosen = self._chance.sample(known, self._chance.randrange(len(known) + 1))
            self._times.update(chosen)
            self.acks += 1
            self.refused_acks += len(chosen)
        del asked.ack_ids[:]
        asked.ack_ids.extend(each for each in ack_ids if each not in chosen)
        answer = self.pass_on(method, asked.SerializeToString(), context) if asked.ack_ids else b""
        if chosen:
            context.abort_with_status(rpc_status.to_status(_told(chosen)))
        return answer


def _told(ack_ids: list[str]) -> Any:
    """How the service names single leases that it could not acknowledge, under exactly-once delivery."""
    why = ErrorInfo(
        reason="EXACTLY_ONCE_ACKID_FAILURE",
        domain="pubsub.googleapis.com",
        metadata=dict.fromkeys(ack_ids, "TRANSIENT_FAILURE_UNORDERED_ACK_ID"),
    )
    packed = Packed()
    packed.Pack(why)
    return Status(
        code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
        message="Some ack ids were refused.",
        details=[packed],
    )
