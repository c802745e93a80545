# SPDX-License-Identifier: Apache-2.0
"""Which targets may be called: whoever can create a task must not thereby reach every server that this host can."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = ("localhost", "127.0.0.0/8", "::1/128")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_\-]+(\.[a-z0-9_\-]+)*")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_METADATA = frozenset({"metadata", "instance-data"})
_PORTS = {"http": 80, "https": 443}
# Never called, whatever is allowed: metadata servers, and forms of addresses that have another one inside.
_NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32"),
        *("2002::/16", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::/32"),
    )
)
_LOOPBACK_6 = ipaddress.IPv6Address(1)


class TargetRefused(Exception):  # noqa: N818 - as Refused
    """A URL that is not called."""


class Target(NamedTuple):
    """A URL that may be called, as far as its text can tell.

    Attributes:
        scheme: ``http`` or ``https``.
        host: In lower case; of an IPv6 address without brackets.
        port: The given one, or that of the scheme.
        path: With the query; at least a slash.
        authority: For the Host header.
        address: The host, where it is one.
    """

    scheme: str
    host: str
    port: int
    path: str
    authority: str
    address: Address | None


class Targets:
    """The hosts that may be called.

    Args:
        allowed: Names, addresses and networks, such as ``"worker"`` or ``"10.1.0.0/16"``; by default this host's
            loopback alone. A network allows the addresses in URLs; a name allows what it resolves to, apart from
            metadata servers, multicast and the like, which are never called. ``localhost`` must be on loopback.

    Raises:
        ValueError: An entry is none of these.
    """

    def __init__(self, allowed: Sequence[str] = LOOPBACK) -> None:
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for each in allowed:
            network = _network(each)
            if network is not None:
                self._networks.append(network)
            elif _HOST_NAME.fullmatch(each.lower()) and not _is_number(each.lower()):
                self._names.add(each.lower())
            else:
                msg = f"{each!r} is no host name, address or network; give one as in worker, 10.1.2.3 or 10.1.0.0/16"
                raise ValueError(msg)

    def read(self, url: str) -> Target:
        """Look at the text of a URL.

        Raises:
            TargetRefused: It is not to be called, however its name is resolved.
        """
        parts, port = _split(url)
        host = parts.hostname or ""
        address = _address(host)
        if address is not None:
            self._check_literal(address)
        else:
            self._check_name(host)
        query = f"?{parts.query}" if parts.query else ""
        authority = parts.netloc.lower()
        return Target(
            parts.scheme, host, port or _PORTS[parts.scheme], (parts.path or "/") + query, authority, address
        )

    def check(self, target: Target, resolved: Sequence[str]) -> list[str]:
        """What a name was resolved to. Only what this returns may be connected to, and nothing is resolved again.

        Raises:
            TargetRefused: One of the addresses is not to be called.
        """
        found = []
        for text in dict.fromkeys(resolved):
            address = ipaddress.ip_address(text.partition("%")[0])
            if is_never(address) or (target.host == "localhost" and not address.is_loopback):
                msg = f"{target.host!r} resolves to {text}, which is never called"
                raise TargetRefused(msg)
            found.append(str(address))
        if not found:
            msg = f"{target.host!r} resolves to nothing"
            raise TargetRefused(msg)
        return found

    def may_be_called(self, url: str) -> bool:
        """Whether the text of a URL is allowed."""
        try:
            self.read(url)
        except TargetRefused:
            return False
        return True

    def _check_literal(self, address: Address) -> None:
        if is_never(address):
            msg = f"{address} is never called"
            raise TargetRefused(msg)
        if not any(address in network for network in self._networks):
            raise _not_allowed(str(address))

    def _check_name(self, host: str) -> None:
        if not _HOST_NAME.fullmatch(host) or _is_number(host):
            msg = f"{host!r} is neither a host name nor an address in its usual form"
            raise TargetRefused(msg)
        if _METADATA.intersection(host.split(".")):
            msg = f"{host!r} is the name of a metadata server"
            raise TargetRefused(msg)
        if host not in self._names:
            raise _not_allowed(host)


def is_never(address: Address) -> bool:
    """Whether an address is not to be called, whatever is allowed."""
    return address != _LOOPBACK_6 and any(address in network for network in _NEVER)


def _split(url: str) -> tuple[_Parts, int | None]:
    # urlsplit drops tabs and line ends, and others read a backslash as a slash: what two readers could understand in
    # two ways is refused.
    if any(character <= " " or character in "\\\x7f" or character > "~" for character in url):
        msg = "the URL has a space, a backslash, a control character or a letter beyond ASCII"
        raise TargetRefused(msg)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetRefused(str(error)) from None
    if parts.scheme not in _PORTS:
        msg = f"the scheme is {parts.scheme!r}, and only http and https are called"
        raise TargetRefused(msg)
    if "@" in parts.netloc:
        msg = "the URL has a user or password"
        raise TargetRefused(msg)
    return _Parts(parts.scheme, parts.netloc, parts.path, parts.query, parts.hostname), port


class _Parts(NamedTuple):
    scheme: str
    netloc: str
    path: str
    query: str
    hostname: str | None


def _address(host: str) -> Address | None:
    if "%" in host:
        msg = f"{host!r} has a percent sign"
        raise TargetRefused(msg)
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_number(host: str) -> bool:
    # 2130706433, 0x7f.1 and 0177.0.0.1 are addresses to a resolver.
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _not_allowed(host: str) -> TargetRefused:
    return TargetRefused(f"{host} is not allowed; name it when the emulator is started, with --allow {host}")
