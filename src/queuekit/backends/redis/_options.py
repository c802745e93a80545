# SPDX-License-Identifier: Apache-2.0
"""The options of a Redis URL, and the servers that it points to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal, NamedTuple

from queuekit._values.hosts import is_loopback
from queuekit.backend import Host, InvalidURLError, QueueURL, Range
from queuekit.backends.redis._topology import Node

FORMS = (
    "redis://HOST:PORT/DATABASE?queue=QUEUE",
    "rediss://USER:PASSWORD@HOST:PORT/DATABASE?queue=QUEUE",
    "redis+unix:///ABSOLUTE/SOCKET?queue=QUEUE",
    "redis+cluster://HOST:PORT,HOST:PORT?queue=QUEUE",
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE?queue=QUEUE",
)
_DATABASE = re.compile(r"/?([0-9]{1,5})?")
_NO_DATABASE = re.compile(r"/?0?")
_SERVICE = re.compile(r"/([^/]+)(?:/([0-9]{1,5})?)?")
_PORT = 6379
_SENTINEL_PORT = 26_379
_TLS = frozenset({"rediss", "valkeys"})
Form = Literal["server", "unix", "cluster", "sentinel"]
_FORMS: Mapping[str, Form] = {
    "": "server",
    "s": "server",
    "+unix": "unix",
    "+cluster": "cluster",
    "+sentinel": "sentinel",
}
"""By what follows ``redis`` or ``valkey`` in the scheme."""


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
        tls: Whether connections to a cluster, or to Sentinels and what they name, are encrypted. Other forms of
            URL say it by their scheme.
        ca_file: With TLS, the certificates that the server's must be signed by; without it, those of the system.
        sentinel_user: The user's name at the Sentinels, where they ask for one.
        sentinel_password: The password at the Sentinels, where they ask for one. User and password of the URL are
            for the servers that they name.
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
    tls: bool = False
    ca_file: str = ""
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, and who we are there.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL points to. Two backends with equal ones share connections.

    Attributes:
        form: One server, by TCP or by a socket; a cluster; or Sentinels that know a service.
        address: The server. For a cluster and for Sentinels, what all servers have in common, without a place.
        nodes: Some nodes of the cluster, or the Sentinels; else empty.
        service: What the Sentinels call the servers; else empty.
        asking: For Sentinels, who we are there, without a place; else as ``address``.
    """

    form: Form
    address: Address
    nodes: tuple[Node, ...] = ()
    service: str = ""
    asking: Address

    @property
    def plaintext(self) -> bool:
        """Whether it is on another host, and connections are not encrypted."""
        hosts = [node.host for node in self.nodes] or [self.address.host]
        return self.form != "unix" and not self.address.tls and not all(map(is_loopback, hosts))


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


def target_of(url: QueueURL, options: RedisOptions, connect_s: float) -> Target:
    """What a URL points to.

    Raises:
        InvalidURLError: It names no server, or more than its form has, or no database, or has an option of
            another form.
    """
    form = _FORMS[url.scheme.removeprefix("redis").removeprefix("valkey")]
    _check_options(url, options, form)
    common = Address(
        user=url.user,
        password=url.password,
        tls=options.tls or url.scheme in _TLS,
        ca_file=options.ca_file,
        answer_s=options.answer_timeout.total_seconds(),
        connect_s=connect_s,
    )
    return _READERS[form](url, options, common)


def _check_options(url: QueueURL, options: RedisOptions, form: Form) -> None:
    several = form in {"cluster", "sentinel"}
    if options.tls and not several:
        remedy = "a socket has no need of it" if form == "unix" else "use rediss or valkeys"
        msg = f"the option 'tls' is for clusters and Sentinel, and the URL begins with {url.scheme}; {remedy}"
        raise InvalidURLError(msg)
    if options.ca_file and not (options.tls or url.scheme in _TLS):
        remedy = "add tls=true" if several else "use rediss or valkeys"
        msg = f"'ca_file' is for URLs with TLS, and this {url.scheme} URL has none; {remedy}"
        raise InvalidURLError(msg)
    if (options.sentinel_user or options.sentinel_password) and form != "sentinel":
        msg = f"'sentinel_user' and 'sentinel_password' are for redis+sentinel URLs, and this is a {url.scheme} URL"
        raise InvalidURLError(msg)
    if options.sentinel_user and not options.sentinel_password:
        msg = "'sentinel_user' needs 'sentinel_password'"
        raise InvalidURLError(msg)
    if options.database and form != "unix":
        place = "is always 0" if form == "cluster" else "stands in its path"
        msg = f"the database of a {url.scheme} URL {place}; the option 'database' is for redis+unix URLs"
        raise InvalidURLError(msg)


def _socket(url: QueueURL, options: RedisOptions, common: Address) -> Target:
    if url.hosts or not url.path.strip("/"):
        msg = f"a {url.scheme} URL has no host, and names the socket; the form is {FORMS[2]}"
        raise InvalidURLError(msg)
    address = replace(common, socket=url.path, database=options.database)
    return Target(form="unix", address=address, asking=address)


def _server(url: QueueURL, _options: RedisOptions, common: Address) -> Target:
    if len(url.hosts) != 1:
        msg = f"a {url.scheme} URL names one host; the form is {FORMS[0]}, and several are for {FORMS[3]}"
        raise InvalidURLError(msg)
    database = _DATABASE.fullmatch(url.path)
    if database is None:
        msg = f"the path of a {url.scheme} URL is the number of the database, as in {FORMS[0]}"
        raise InvalidURLError(msg)
    ((host, port),) = _nodes(url.hosts, _PORT)
    address = replace(common, host=host, port=port, database=int(database[1] or 0))
    return Target(form="server", address=address, asking=address)


def _cluster(url: QueueURL, _options: RedisOptions, common: Address) -> Target:
    if not url.hosts:
        msg = f"a {url.scheme} URL names nodes of the cluster; the form is {FORMS[3]}"
        raise InvalidURLError(msg)
    if not _NO_DATABASE.fullmatch(url.path):
        msg = f"a {url.scheme} URL has no path but /0, as a cluster has one database; the form is {FORMS[3]}"
        raise InvalidURLError(msg)
    return Target(form="cluster", address=common, nodes=_nodes(url.hosts, _PORT), asking=common)


def _sentinel(url: QueueURL, options: RedisOptions, common: Address) -> Target:
    path = _SERVICE.fullmatch(url.path)
    if not url.hosts or path is None:
        msg = f"a {url.scheme} URL names Sentinels, and the service as they know it; the form is {FORMS[4]}"
        raise InvalidURLError(msg)
    asking = replace(common, user=options.sentinel_user or None, password=options.sentinel_password or None)
    return Target(
        form="sentinel",
        address=replace(common, database=int(path[2] or 0)),
        nodes=_nodes(url.hosts, _SENTINEL_PORT),
        service=path[1],
        asking=asking,
    )


def _nodes(hosts: tuple[Host, ...], port: int) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(Node(host.name, host.port or port) for host in hosts))


_READERS = {"server": _server, "unix": _socket, "cluster": _cluster, "sentinel": _sentinel}
