# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from queuekit._values.clock import SystemClock
from queuekit._wiring.opening import Opener
from queuekit.backend import InvalidURLError, QueueURL
from queuekit.backends.redis import RedisBackend, RedisOptions
from queuekit.backends.redis._connections import Line
from queuekit.backends.redis._options import Address, address_of


def read(text: str, **options: Any) -> Address:
    return address_of(QueueURL.parse(text), RedisOptions(**options), 5.0)


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
    ],
)
def test_a_url_names_a_server(text: str, expected: Address) -> None:
    assert read(text) == expected


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
    connection = Line(address)._connection
    assert type(connection).__name__ == kind
    assert connection.socket_timeout == address.answer_s
    assert (connection.retry_on_timeout, connection.retry._retries) == (False, 0)
    if kind == "SSLConnection":
        assert connection.ca_certs == "ca.pem"
        assert connection.cert_reqs == 2, "the certificate is required"


def test_no_secret_is_shown(canary: str) -> None:
    assert canary not in repr(read(f"redis://ada:{canary}@db.example"))


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
    assert one._connections is two._connections
    assert one._connections is not other._connections
    opener.close()
