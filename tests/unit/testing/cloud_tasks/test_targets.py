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


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "::ffff:10.0.0.1", "224.0.0.1"])
def test_some_addresses_are_never_called_whatever_is_allowed(address: str) -> None:
    targets = Targets(["0.0.0.0/0", "::/0", "worker"])
    host = f"[{address}]" if ":" in address else address
    assert not targets.may_be_called(f"http://{host}/")
    with pytest.raises(TargetRefused, match="never called"):
        targets.check(targets.read("http://worker/"), ["10.0.0.1", address])


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
