# SPDX-License-Identifier: Apache-2.0
"""Certificates for servers of tests. Needs ``pip install cryptography``."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_DAY = dt.timedelta(days=1)
# Tests do not depend on the date: it is far behind and far ahead of them.
_BEGIN, _END = dt.datetime(2000, 1, 1), dt.datetime(2999, 1, 1)  # noqa: DTZ001 - X.509 has UTC only


class Certificate(NamedTuple):
    """Two files in PEM form.

    Attributes:
        file: The certificate.
        key: Its private key.
    """

    file: Path
    key: Path


class Authority:
    """Signs certificates for servers on this host.

    Args:
        directory: Where the files go; made where it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._certificate, self._key = _make("queuekit test authority", (), None, _END)
        self.file: Path = _write(directory / "authority.pem", _pem(self._certificate))
        """The authority's own certificate, for those who are to trust it."""

    def issue(
        self, names: Sequence[str] = ("localhost", "127.0.0.1"), *, expired: bool = False, by_itself: bool = False
    ) -> Certificate:
        """A certificate for a server.

        Args:
            names: Host names and addresses.
            expired: Whether it was valid only in the past.
            by_itself: Whether it is signed by its own key, and not by the authority.
        """
        signer = None if by_itself else (self._certificate, self._key)
        certificate, key = _make(names[0], names, signer, _BEGIN + _DAY if expired else _END)
        path = self._directory / f"{certificate.serial_number:x}"[:16]
        return Certificate(
            _write(path.with_suffix(".pem"), _pem(certificate)), _write(path.with_suffix(".key"), _pem(key))
        )


def _make(subject: str, names: Sequence[str], signer: tuple[Any, Any] | None, end: dt.datetime) -> tuple[Any, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    issuer, signing = (name, key) if signer is None else (signer[0].subject, signer[1])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName([_alternative(each) for each in names]), critical=False)
    return made.sign(signing, hashes.SHA256()), key


def _alternative(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(thing: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    if hasattr(thing, "private_bytes"):
        text: bytes = thing.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        return text
    certificate: bytes = thing.public_bytes(form.Encoding.PEM)
    return certificate


def _write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path
