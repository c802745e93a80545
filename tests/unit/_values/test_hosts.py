# SPDX-License-Identifier: Apache-2.0
"""Which hosts are this one: what is refused or warned of elsewhere depends on it."""

from __future__ import annotations

import pytest

from queuekit._values.hosts import is_loopback, is_plaintext


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "127.0.0.1", "127.255.0.9", "::1", "[::1]", "::ffff:127.0.0.1"],
)
def test_this_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com",
        "localhost.example.com",
        "notlocalhost",
        "db.localhost",
        "10.0.0.1",
        "128.0.0.1",
        "0.0.0.0",
        "::",
        "::ffff:10.0.0.1",
        "2130706433",
        "127.0.0.1.example.com",
    ],
)
def test_another_host(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "readable"),
    [
        ("http://example.com", True),
        ("HTTP://10.0.0.1:8080", True),
        ("https://example.com", False),
        ("http://localhost:5000", False),
        ("http://[::1]:5000", False),
    ],
)
def test_what_others_may_read(address: str, *, readable: bool) -> None:
    assert is_plaintext(address) is readable
