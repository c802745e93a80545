# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from queuekit import Producer
from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import InvalidURLError, QueueURL
from queuekit.backends.redis import RedisBackend, RedisOptions
from queuekit.backends.redis._lines import Line, Lines
from queuekit.backends.redis._options import Address, target_of
from queuekit.backends.redis._topology import Node


def read(text: str, **options: Any) -> Address:
    return target_of(QueueURL.parse(text), RedisOptions(**options), 5.0).address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://db.example", Address(host="db.example")),
        ("valkey://db.example/", Address(host="db.example")),
        ("redis://db.example:7000/3", Address(host="db.example", port=7000, database=3)),
        ("redis://[::1]:7000/0", Address(host="::1", port=7000)),
        ("redis://:hidden@db.example", Address(host="db.example", password="hidden")),
        ("rediss://ada:hidden@db.example", Address(host="db.example", user="ada", password="hidden", tls=True)),
        ("valkeys://db.example", Address(host="db.example", tls=True)),
        ("redis+unix:///run/redis.sock", Address(socket="/run/redis.sock")),
        ("valkey+unix:///run/redis.sock", Address(socket="/run/redis.sock")),
        ("redis+cluster://:hidden@one,two", Address(password="hidden")),
        ("redis+sentinel://ada:hidden@one/main/3", Address(user="ada", password="hidden", database=3)),
    ],
)
def test_a_url_names_a_server(text: str, expected: Address) -> None:
    assert read(text) == expected


def test_a_cluster_is_known_by_some_of_its_nodes() -> None:
    target = target_of(QueueURL.parse("valkey+cluster://one:7000,[::1],one:7000/0"), RedisOptions(), 5.0)
    assert (target.form, target.nodes) == ("cluster", (Node("one", 7000), Node("::1", 6379)))
    assert target.asking == target.address


@pytest.mark.parametrize(("path", "database"), [("/main", 0), ("/main/", 0), ("/main/2", 2)])
def test_sentinels_know_a_service_and_have_a_login_of_their_own(path: str, database: int) -> None:
    options = RedisOptions(sentinel_user="watch", sentinel_password="dog", tls=True, ca_file="ca.pem")
    target = target_of(QueueURL.parse(f"valkey+sentinel://ada:hidden@one,two:7000{path}"), options, 5.0)
    assert (target.form, target.service) == ("sentinel", "main")
    assert target.nodes == (Node("one", 26379), Node("two", 7000))
    assert target.address == Address(user="ada", password="hidden", database=database, tls=True, ca_file="ca.pem")
    assert target.asking == Address(user="watch", password="dog", tls=True, ca_file="ca.pem")


def test_a_socket_has_its_database_in_an_option() -> None:
    assert read("redis+unix:///run/redis.sock", database=2).database == 2


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("redis:///0", {}),
        ("redis://one,two/0", {}),
        ("redis://one/orders", {}),
        ("redis://one/0/1", {}),
        ("redis://one/0", {"database": 1}),
        ("redis://one/0", {"ca_file": "ca.pem"}),
        ("redis+unix://one/run/redis.sock", {}),
        ("redis+unix:///", {}),
        ("redis+unix:///run/redis.sock", {"tls": True}),
        ("redis://one/0", {"tls": True}),
        ("rediss://one/0", {"tls": True}),
        ("redis://one/0", {"sentinel_password": "dog"}),
        ("redis+cluster:///0", {}),
        ("redis+cluster://one/1", {}),
        ("redis+cluster://one/main", {}),
        ("redis+cluster://one", {"database": 1}),
        ("redis+cluster://one", {"ca_file": "ca.pem"}),
        ("redis+cluster://one", {"sentinel_user": "watch", "sentinel_password": "dog"}),
        ("redis+sentinel:///main", {}),
        ("redis+sentinel://one", {}),
        ("redis+sentinel://one/", {}),
        ("redis+sentinel://one/main/other", {}),
        ("redis+sentinel://one/main/0", {"database": 1}),
        ("redis+sentinel://one/main", {"sentinel_user": "watch"}),
    ],
)
def test_a_url_that_names_none_is_refused(text: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidURLError):
        read(text, **options)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (Address(host="h"), "Connection"),
        (Address(host="h", tls=True, ca_file="ca.pem"), "SSLConnection"),
        (Address(socket="/s"), "UnixDomainSocketConnection"),
    ],
)
def test_a_connection_waits_no_longer_than_its_address_says_and_tries_once(address: Address, kind: str) -> None:
    connection = Line(Lines(address, SystemClock()), address, SystemClock())._connection
    assert type(connection).__name__ == kind
    assert connection.socket_timeout == address.answer_s
    assert (connection.retry_on_timeout, connection.retry._retries) == (False, 0)
    if kind == "SSLConnection":
        assert connection.ca_certs == "ca.pem"
        assert connection.cert_reqs == 2, "the certificate is required"
        assert connection.check_hostname is True, "and must be the host's"


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("redis://example.com/0", True),
        ("redis://ada:pw@10.0.0.1/0", True),
        ("redis://127.0.0.1/0", False),
        ("rediss://example.com/0", False),
        ("redis+unix:///run/redis.sock", False),
        ("redis+cluster://localhost:1,example.com:2", True),
        ("redis+cluster://localhost:1,example.com:2?tls=true", False),
        ("redis+sentinel://10.0.0.1:1/main", True),
        ("valkey+sentinel://localhost:1/main/0", False),
    ],
)
def test_what_nothing_encrypts_on_its_way_to_another_host_is_said_when_it_is_opened(
    url: str, readable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    whole = f"{url}{'&' if '?' in url else '?'}queue=q"
    Producer(whole, payload=str).close()
    told = [getattr(record, "action", "") for record in caplog.records]
    assert told.count("connection.plaintext") == readable


def test_no_secret_is_shown(canary: str) -> None:
    assert canary not in repr(read(f"redis://ada:{canary}@db.example"))
    options = RedisOptions(sentinel_password=canary)
    url = QueueURL.parse(f"redis+sentinel://one/main?sentinel_password={canary}")
    assert canary not in repr((options, target_of(url, options, 5.0))) + str(url)
    assert canary in set(url.secrets())


@pytest.mark.parametrize(
    ("form", "same", "other"),
    [
        ("redis+cluster://one,two?queue={}", "valkey+cluster://one,two/0?queue={}", "redis+cluster://one?queue={}"),
        ("redis+sentinel://one/a?queue={}", "valkey+sentinel://one/a/0?queue={}", "redis+sentinel://one/b?queue={}"),
    ],
)
def test_queues_of_one_cluster_or_service_share_connections(form: str, same: str, other: str) -> None:
    opener = Opener(SystemClock())
    ways = [
        backend._connections._servers
        for text in (form, same, other)
        for backend in [opener.open(QueueURL.parse(text.format(len(text))))]
        if isinstance(backend, RedisBackend)
    ]
    assert ways[0] is ways[1]
    assert ways[0] is not ways[2]
    opener.close()


def test_opening_makes_no_connection_and_equal_addresses_share_theirs() -> None:
    opener = Opener(SystemClock())
    one, two, other = (
        opener.open(QueueURL.parse(text))
        for text in (
            "redis://127.0.0.1:1/0?queue=a",
            "valkey://127.0.0.1:1/0?queue=b",
            "redis://127.0.0.1:1/1?queue=a",
        )
    )
    assert isinstance(one, RedisBackend)
    assert isinstance(two, RedisBackend)
    assert isinstance(other, RedisBackend)
    assert one._connections._servers is two._connections._servers
    assert one._connections._servers is not other._connections._servers
    opener.close()
