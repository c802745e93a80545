# SPDX-License-Identifier: Apache-2.0
"""Which hosts are this one."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this one, as far as its name or address tells; nothing is looked up.

    Args:
        host: A name or an address, an IPv6 address with or without brackets.
    """
    name = host.removeprefix("[").removesuffix("]").lower().removesuffix(".")
    if name == "localhost":  # names below it are looked up by some systems
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_plaintext(address: str) -> bool:
    """Whether others may read on the way what is sent to an ``http`` address; not to ``https``, nor to this host."""
    parts = urlsplit(address)
    return parts.scheme.lower() == "http" and not is_loopback(parts.hostname or "")
