# SPDX-License-Identifier: Apache-2.0
"""The tokens that go with a task, and the certificate that proves them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from queuekit._values.clock import Clock

GOOGLE = "https://accounts.google.com"
_LIFE_S = 3600
_FRESH_S = 300
"""A token is used again for so long."""


class Signer:
    """Makes tokens as Google does, with a key of its own, which it makes at first use.

    Args:
        clock: What the tokens' times are read from: the clock of those who will check them.
        issuer: Their issuer.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, clock: Clock, issuer: str = GOOGLE) -> None:
        self._clock = clock
        self.issuer: str = issuer
        self._lock = threading.Lock()
        self._key: Any = None
        self._key_id = ""
        self._made: dict[tuple[str, str, str], tuple[float, str]] = {}

    def oidc(self, email: str, audience: str) -> str:
        """An OpenID Connect token of a service account."""
        return self._fresh("oidc", email, audience)

    def oauth(self, email: str, scope: str) -> str:
        """An OAuth access token: nothing that anybody here could check."""
        return self._fresh("oauth", email, scope)

    def certificates(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The public key, as a JSON Web Key Set."""
        from jwt.algorithms import RSAAlgorithm

        with self._lock:
            self._make_key()
            key = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**key, "kid": self._key_id, "alg": "RS256", "use": "sig"}]}

    def _fresh(self, kind: str, email: str, what_for: str) -> str:
        now = self._clock.time()
        with self._lock:
            made, token = self._made.get((kind, email, what_for), (float("-inf"), ""))
            if not 0 <= now - made < _FRESH_S:
                make = self._make_oidc if kind == "oidc" else self._make_oauth
                token = make(email, what_for, int(now))
                self._made[kind, email, what_for] = (now, token)
            return token

    def _make_oidc(self, email: str, audience: str, now: int) -> str:
        import jwt

        self._make_key()
        claims = {
            "iss": self.issuer,
            "aud": audience,
            "azp": _number(email),
            "sub": _number(email),
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + _LIFE_S,
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._key_id})

    def _make_oauth(self, email: str, scope: str, now: int) -> str:
        return "ya29.emulated-" + hashlib.sha256(f"{email} {scope} {now}".encode()).hexdigest()

    def _make_key(self) -> None:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric import rsa

            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            self._key_id = hashlib.sha256(str(self._key.public_key().public_numbers().n).encode()).hexdigest()[:40]


def _number(email: str) -> str:
    # A service account's own number has 21 digits.
    return "1" + f"{int.from_bytes(hashlib.sha256(email.encode()).digest()[:8]) % 10**20:020d}"
