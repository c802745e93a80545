# SPDX-License-Identifier: Apache-2.0
"""Which addresses a queue's messages may be pushed to, as far as their text tells.

Whoever can choose a queue's URL must not thereby reach a server inside.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from queuekit.backend import InvalidURLError

_LONGEST = 2083
_HOST = re.compile(r"(?!-)[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_INSIDE = frozenset({"internal", "local", "localhost", "localdomain", "lan", "home", "corp", "intranet", "private"})
# Outside it, and within two parts of it, an address may have an IPv4 address inside, which is what is reached.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_METADATA = frozenset({"metadata", "instance-data"})


def check_target(target: str, *, anywhere: bool, signed: bool) -> None:
    """Check the address that a queue's messages are pushed to.

    Args:
        target: The address.
        anywhere: Whether it may be one that only an emulator on this host can reach.
        signed: Whether a token goes with each call.

    Raises:
        InvalidURLError: It is none that may be called. The address is not quoted, as it may have a secret.
    """
    parts = _split(target)
    if anywhere:
        return
    if parts.scheme != "https":
        also = ", which a token must go by" if signed else ""
        msg = (
            f"the option 'target' of a cloudtasks URL is an https address{also}; http is for an endpoint on this host"
        )
        raise InvalidURLError(msg)
    if not _is_public(parts.hostname or ""):
        msg = (
            "the option 'target' of a cloudtasks URL names a host of a private network, which the service cannot "
            "reach; give a public name, or an endpoint on this host"
        )
        raise InvalidURLError(msg)


def _split(target: str) -> SplitResult:
    # What two readers could understand in two ways is refused.
    plain = target.isascii() and target.isprintable() and not any(each in target for each in " \\#")
    try:
        parts = urlsplit(target) if plain and len(target) <= _LONGEST else None
        well = parts is not None and parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, well = None, False
    if parts is None or not well or "@" in parts.netloc or "%" in parts.netloc:
        msg = (
            f"the option 'target' of a cloudtasks URL is an https address of at most {_LONGEST} characters, without "
            "a login, a fragment, spaces or letters beyond ASCII"
        )
        raise InvalidURLError(msg)
    return parts


def _is_public(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        named = _HOST.fullmatch(host) and not _NUMBER.fullmatch(labels[-1])
        return bool(named) and labels[-1] not in _INSIDE and _METADATA.isdisjoint(labels)
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _PUBLIC_6 or address.sixtofour or address.teredo
    ):
        return False
    return address.is_global and not address.is_multicast
