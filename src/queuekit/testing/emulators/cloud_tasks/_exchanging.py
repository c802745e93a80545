# SPDX-License-Identifier: Apache-2.0
"""One request and its answer over HTTP/1.1, on a connection of its own."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from queuekit.testing.emulators.cloud_tasks._headers import USER_AGENT
from queuekit.testing.emulators.cloud_tasks._requests import Request
from queuekit.testing.emulators.cloud_tasks._targets import Target

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_PIECE = 1 << 16
_CONNECT_S = 10.0


class BadAnswerError(Exception):
    """What came is no answer."""


class Answer(NamedTuple):
    """What a target answered.

    Attributes:
        status: Of HTTP.
        headers: By name in lower case.
    """

    status: int
    headers: Mapping[str, str]

    def retry_after_s(self, now: float) -> float:
        """What the target asks for; 0 where it asks for nothing, or for nothing that can be understood."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        return max(0.0, when.timestamp() - now)


async def exchange(
    request: Request,
    target: Target,
    addresses: Sequence[str],
    authorization: str | None,
    context: ssl.SSLContext | None,
) -> Answer:
    """Send a request to the first of some addresses that takes the connection, and read the whole answer.

    Redirects are answers like any other.

    Raises:
        OSError: There is no connection, or it broke.
        EOFError: It was closed before the answer was whole.
        BadAnswerError: What came is not HTTP.
    """
    reader, writer = await _connect(target, addresses, context)
    try:
        writer.write(_head(request, target, authorization) + request.body)
        # Not drained: a target that refuses a large body answers before it has read it.
        return await _read(reader, request.method)
    finally:
        writer.transport.abort()  # all that is wanted has been read; a farewell of TLS would be waited for


async def _connect(
    target: Target, addresses: Sequence[str], context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for number, address in enumerate(addresses, 1):
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(
                    address, target.port, ssl=context, server_hostname=None if context is None else target.host
                )
        except (OSError, TimeoutError):
            if number == len(addresses):
                raise
    raise OSError("no address")


def _head(request: Request, target: Target, authorization: str | None) -> bytes:
    lines = [f"{request.method} {target.path} HTTP/1.1", f"Host: {target.authority}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "user-agent"]
    lines.append(f"User-Agent: {USER_AGENT}")
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    if request.body or request.method in {"POST", "PUT", "PATCH"}:
        lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    while True:
        answer = await _read_head(reader)
        if answer.status >= 200 or answer.status == 101:
            break
    if answer.status == 101:
        raise BadAnswerError("the target changes the protocol, which nobody asked for")
    if method != "HEAD" and answer.status not in {204, 304}:
        await _skip_body(reader, answer.headers)
    return answer


async def _read_head(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise BadAnswerError("the head of the answer has no end") from error
    first, *rest = head[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadAnswerError("the answer is not one of HTTP/1.1")
    pairs = (line.decode("latin-1").partition(":") for line in rest)
    return Answer(int(match[1]), {name.strip().lower(): value.strip() for name, _, value in pairs})


async def _skip_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> None:
    if headers.get("transfer-encoding", "").lower().endswith("chunked"):
        while size := _number(await reader.readuntil(b"\r\n"), 16):
            await _skip(reader, size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif "content-length" in headers:
        await _skip(reader, _number(headers["content-length"].encode(), 10))
    else:
        while await reader.read(_PIECE):
            pass


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        piece = await reader.read(min(size, _PIECE))
        if not piece:
            raise EOFError("the answer ends before its body does")
        size -= len(piece)


def _number(text: bytes, radix: int) -> int:
    digits = text.partition(b";")[0].strip()
    try:
        number = int(digits, radix)
    except ValueError:
        number = -1
    if number < 0:
        raise BadAnswerError("the answer's body has a length that is none")
    return number
