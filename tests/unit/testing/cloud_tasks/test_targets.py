# SPDX-License-Identifier: Apache-2.0
"""What the text of a URL, and what a name resolves to, is allowed to be."""

import pytest

from queuekit.testing.emulators.cloud_tasks._targets import TargetRefused, Targets

LOCAL = Targets()


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://127.0.0.1:8080/tasks?a=1&b", "127.0.0.1", 8080, "/tasks?a=1&b", "127.0.0.1:8080"),
        ("http://127.9.9.9", "127.9.9.9", 80, "/", "127.9.9.9"),
        ("https://LOCALHOST/x#part", "localhost", 443, "/x", "localhost"),
        ("http://[::1]:8080/", "::1", 8080, "/", "[::1]:8080"),
        ("http://localhost?q", "localhost", 80, "/?q", "localhost"),
    ],
)
def test_loopback_is_called(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = LOCAL.read(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


def test_what_is_allowed_by_name_address_or_network_is_called() -> None:
    targets = Targets(["Worker", "10.1.0.0/16", "192.0.2.7", "fd00:1::/64"])
    for url in ("http://worker/", "http://10.1.2.3/", "http://192.0.2.7/", "http://[fd00:1::9]/"):
        assert targets.may_be_called(url)
    for url in ("http://10.2.0.1/", "http://192.0.2.8/", "http://worker.example/", "http://localhost/"):
        assert not targets.may_be_called(url)


NEVER = [
    *("169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1", "192.0.0.192", "255.255.255.255"),
    *("fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "100::1", "::", "::7f00:1", "::ffff:10.0.0.1"),
    *("::ffff:0:a00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2001::a00:1", "2002:a00:1::"),
]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_called_whatever_is_allowed(address: str) -> None:
    targets = Targets(["0.0.0.0/0", "::/0", "worker"])
    host = f"[{address}]" if ":" in address else address
    assert not targets.may_be_called(f"http://{host}/")
    with pytest.raises(TargetRefused, match="never called"):
        targets.check(targets.read("http://worker/"), ["10.0.0.1", address])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://metadata.google.internal/", "metadata"),
        ("http://instance-data/", "metadata"),
        ("http://user@127.0.0.1/", "user or password"),
        ("http://user:pw@localhost/", "user or password"),
        ("http://127.0.0.1%00.example/", "percent"),
        ("http://2130706433/", "usual form"),
        ("http://0x7f.1/", "usual form"),
        ("http://127.0.0.1\\@example.com/", "backslash"),
        ("http://127.0.0.1/\t", "control character"),
        ("file:///etc/passwd", "only http and https"),
        ("gopher://127.0.0.1/", "only http and https"),
        ("http://127.0.0.1:99999/", "Port out of range"),
    ],
)
def test_what_is_written_to_mislead_is_refused_whatever_is_allowed(url: str, reason: str) -> None:
    targets = Targets(["0.0.0.0/0", "::/0", "metadata.google.internal", "instance-data", "localhost"])
    with pytest.raises(TargetRefused, match=reason):
        targets.read(url)


def test_localhost_must_be_loopback() -> None:
    target = LOCAL.read("http://localhost/")
    assert LOCAL.check(target, ["::1", "127.0.0.1", "::1"]) == ["::1", "127.0.0.1"]
    with pytest.raises(TargetRefused, match="localhost"):
        LOCAL.check(target, ["192.0.2.1"])
    with pytest.raises(TargetRefused, match="nothing"):
        LOCAL.check(target, [])


@pytest.mark.parametrize("entry", ["http://worker", "worker:80", "*", "", "10.0.0.1/8", "2130706433"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no host name, address or network"):
        Targets([entry])
