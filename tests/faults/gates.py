# SPDX-License-Identifier: Apache-2.0
"""Stands between Google's clients and an emulator, and passes calls on or answers them itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

Way = Callable[[str, bytes, Any], bytes]
_CALL_S = 10.0


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Everything passes but the calls that have another way.

    Args:
        server: The emulator's port.
        ways: What answers a call, by its method: from the method, the request's bytes and gRPC's context.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, server: int, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server}")
        self._gate = grpc.server(ThreadPoolExecutor(32), handlers=[self])
        self.port: int = self._gate.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._gate.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None
    ) -> None:
        self._gate.stop(grace=None).wait()
        self._channel.close()

    def service(self, handler_call_details: Any) -> Any:
        """Answers one call, as gRPC asks for it; requests and answers stay bytes."""
        method = handler_call_details.method
        way = self._ways.get(method, self.pass_on)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: way(method, request, context))

    def pass_on(self, method: str, request: bytes, context: Any) -> bytes:
        """What the emulator answers."""
        try:
            answer: bytes = self._channel.unary_unary(method)(request, timeout=context.time_remaining() or _CALL_S)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata() or ())
            context.abort(error.code(), error.details())
            raise
        return answer
