# SPDX-License-Identifier: Apache-2.0
"""What an ASGI server hands over of a request, read within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from queuekit._portable.callers import Caller

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PLAIN: Final = frozenset({"", "identity"})


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is answered without being handled.

    Args:
        status: The answer's status.
        reason: Why; it stands in the answer, but for 401, and in the log.
        retry_after_s: When another try may do better; None says nothing of it.
    """

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s


class Disconnected(Exception):  # noqa: N818 - as before
    """Whoever sent the request is gone: nobody waits for an answer."""


class Request(NamedTuple):
    """A request, as far as it is known before its body is read.

    Attributes:
        method: In upper case.
        path: Below the place where the app is mounted, without slashes around it.
        headers: By name in lower case; the values of a repeated one are joined.
        caller: Who sent it.
        length: Its body's length, where it was told.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    caller: Caller
    length: int | None


def request_of(scope: Scope) -> Request:
    """Read a request's scope."""
    headers: dict[str, str] = {}
    repeated: set[str] = set()
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers:
            repeated.add(name)
            value = f"{headers[name]}, {value}"
        headers[name] = value
    length = headers.get("content-length", "")
    proof = None if "authorization" in repeated else headers.get("authorization")
    caller = Caller(proof, _host(scope.get("server")), _host(scope.get("client")), frozenset(headers))
    return Request(
        scope["method"].upper(),
        _below(scope["path"], scope.get("root_path") or ""),
        headers,
        caller,
        int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None,
    )


def check_form(request: Request, *, most: int, json: bool) -> None:
    """Refuse a body for what is said about it.

    Args:
        request: Whose body has not been read.
        most: The largest body, in bytes.
        json: Whether it must be JSON.

    Raises:
        Refusal: It is compressed, of another type, or too long.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
        raise Refusal(415, "a compressed body is not read; send it as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if json and kind != "application/json":
        raise Refusal(415, "the body of a push must be application/json")
    if request.length is not None and request.length > most:
        raise Refusal(413, f"the body is longer than {most} bytes")


async def read_body(receive: Receive, *, most: int, within_s: float, grow: Callable[[int], None]) -> bytes:
    """Read the body.

    Args:
        receive: The server's.
        most: The largest body, in bytes.
        within_s: How long it may take.
        grow: Told of every part how long it is, before the next is asked for; may raise.

    Raises:
        Refusal: It is too long, or too slow.
        Disconnected: It ended before its end.
    """
    # In one piece: each part of its own would cost forty times as much where they are of one byte.
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    raise Disconnected
                part = event.get("body", b"")
                if len(body) + len(part) > most:
                    raise Refusal(413, f"the body is longer than {most} bytes")
                grow(len(part))
                body += part
                if not event.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {within_s:g} s") from None


async def answer(send: Send, status: int, text: str = "", *, retry_after_s: int | None = None) -> None:
    """Answer a request."""
    body = text.encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers += [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if status == 204:  # it has no body, and no length of one
        headers = headers[1:]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host(address: Any) -> str:
    # A socket in the file system has a path here, and no port.
    return str(address[0]) if address and address[1] is not None else ""


def _below(path: str, root: str) -> str:
    root = root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.strip("/")
