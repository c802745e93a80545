# SPDX-License-Identifier: Apache-2.0
"""The options of a Redis URL, and the server that it points to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple

from queuekit.backend import InvalidURLError, QueueURL, Range

FORMS = (
    "redis://HOST:PORT/DATABASE?queue=QUEUE",
    "rediss://USER:PASSWORD@HOST:PORT/DATABASE?queue=QUEUE",
    "redis+unix:///ABSOLUTE/SOCKET?queue=QUEUE",
)
_DATABASE = re.compile(r"/?([0-9]{1,5})?")
_PORT = 6379
_TLS = frozenset({"rediss", "valkeys"})
_UNIX = "redis+unix"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """What can be chosen in a Redis URL.

    Attributes:
        subscription: Receive as this subscription: it gets a copy of every message that is sent to the queue
            after its first use. Without one, messages are shared by everybody who receives.
        database: The number of the database, where the URL's path is a socket.
        dedup_window: How long a dedup id is remembered; 0 switches deduplication off.
        max_messages: Most messages that the queue holds; a send that does not fit is refused as a whole.
        priorities: ``strict``: a message of higher priority always comes first. ``weighted``: each one comes from
            a priority drawn by its weight, the priority plus one, so that none is ever starved.
        keep_done: How long acknowledged messages are kept to be looked at; without it they are removed at once.
        keep_done_max: The most of them that are kept, the latest ones.
        dead_letter_retention: How long a dead letter is kept, counted from when it became one.
        rate: Most messages that are handed out in `rate_per`, to all consumers with this option together; also the
            tries again of the same message count. Without it there is no limit.
        rate_per: The length of time that `rate` is for.
        rate_burst: Most messages that are handed out at once after a quiet time; by default as many as `rate`.
        answer_timeout: The longest that the server may take to answer, beside what it was asked to wait. After it
            the connection is given up, because a dead server and a slow one look alike.
        ca_file: With TLS, the certificates that the server's must be signed by; without it, those of the system.
    """

    subscription: str = ""
    database: int = field(default=0, metadata={"range": Range(0, 16_383)})
    dedup_window: timedelta = field(
        default=timedelta(hours=1), metadata={"range": Range(timedelta(0), timedelta(days=7))}
    )
    max_messages: int | None = field(default=None, metadata={"range": Range(1, 2**44)})
    priorities: Literal["strict", "weighted"] = "strict"
    keep_done: timedelta | None = field(
        default=None, metadata={"range": Range(timedelta(seconds=1), timedelta(days=3650))}
    )
    keep_done_max: int = field(default=10_000, metadata={"range": Range(1, 1_000_000)})
    dead_letter_retention: timedelta = field(
        default=timedelta(days=14), metadata={"range": Range(timedelta(minutes=1), timedelta(days=3650))}
    )
    rate: int | None = field(default=None, metadata={"range": Range(1, 10_000_000)})
    rate_per: timedelta = field(
        default=timedelta(seconds=1),
        metadata={"range": Range(timedelta(milliseconds=1), timedelta(days=31)), "beside": {"rate": "1"}},
    )
    rate_burst: int | None = field(default=None, metadata={"range": Range(1, 10_000_000), "beside": {"rate": "1"}})
    answer_timeout: timedelta = field(
        default=timedelta(seconds=5), metadata={"range": Range(timedelta(seconds=0.1), timedelta(minutes=5))}
    )
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, and who we are there. Two backends with equal ones share connections.

    Attributes:
        host: A name or an address; empty for a socket.
        port: The port.
        socket: The file of a Unix socket; empty for TCP.
        database: The number of the database.
        user: The user name, where there is one.
        password: The password, where there is one.
        tls: Whether the connection is encrypted.
        ca_file: See `RedisOptions`.
        answer_s: See `RedisOptions.answer_timeout`.
        connect_s: Longest time for connecting.
    """

    host: str = ""
    port: int = _PORT
    socket: str = ""
    database: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str = ""
    answer_s: float = 5.0
    connect_s: float = 5.0


class Bucket(NamedTuple):
    """A rate as the scripts take it."""

    limit: int
    per_us: int
    burst: int


def rate_of(options: RedisOptions) -> Bucket | None:
    """The rate that is asked for; None where there is none.

    Raises:
        InvalidURLError: Something about a rate is said, and no rate.
    """
    if options.rate is None:
        if options.rate_burst is not None or options.rate_per != timedelta(seconds=1):
            msg = "'rate_per' and 'rate_burst' say more about a 'rate', and there is none; add rate=NUMBER"
            raise InvalidURLError(msg)
        return None
    per_us = round(options.rate_per.total_seconds() * 1e6)
    return Bucket(options.rate, per_us, options.rate if options.rate_burst is None else options.rate_burst)


def address_of(url: QueueURL, options: RedisOptions, connect_s: float) -> Address:
    """The server of a URL.

    Raises:
        InvalidURLError: The URL names no server, or several, or no database.
    """
    answer_s = options.answer_timeout.total_seconds()
    if url.scheme == _UNIX:
        if url.hosts or not url.path.strip("/"):
            msg = f"a {_UNIX} URL has no host, and names the socket; the form is {FORMS[2]}"
            raise InvalidURLError(msg)
        place = Address(socket=url.path, database=options.database)
    else:
        place = _tcp_address(url, options)
    return Address(
        host=place.host,
        port=place.port,
        socket=place.socket,
        database=place.database,
        user=url.user,
        password=url.password,
        tls=url.scheme in _TLS,
        ca_file=options.ca_file,
        answer_s=answer_s,
        connect_s=connect_s,
    )


def _tcp_address(url: QueueURL, options: RedisOptions) -> Address:
    if len(url.hosts) != 1:
        msg = f"a {url.scheme} URL names one host; the form is {FORMS[0]}"
        raise InvalidURLError(msg)
    database = _DATABASE.fullmatch(url.path)
    if database is None:
        msg = f"the path of a {url.scheme} URL is the number of the database, as in {FORMS[0]}"
        raise InvalidURLError(msg)
    if options.database:
        msg = f"a {url.scheme} URL gives the database in its path; the option 'database' is for {_UNIX} URLs"
        raise InvalidURLError(msg)
    if options.ca_file and url.scheme not in _TLS:
        msg = f"'ca_file' is for URLs with TLS, and {url.scheme} has none; use rediss or valkeys"
        raise InvalidURLError(msg)
    (host,) = url.hosts
    return Address(host=host.name, port=host.port or _PORT, database=int(database[1] or 0))
