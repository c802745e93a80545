# SPDX-License-Identifier: Apache-2.0
"""An issuer of OIDC tokens on this host, in place of Google's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

from queuekit._values.clock import Clock, SystemClock

_BITS = 2048


class LocalIssuer:
    """Signs tokens as Google does for Pub/Sub and Cloud Tasks, and publishes its keys on a free loopback port.

    Args:
        clock: What tokens are dated by.

    Attributes:
        requests: How often the keys were asked for.
        answer: What is answered in place of the keys, as status and body; None answers the keys.

    Concurrency:
        Safe from any thread.

    Examples:
        ```python
        from queuekit.push import OIDC
        from queuekit.testing.issuer import LocalIssuer

        with LocalIssuer() as issuer:
            auth = OIDC(
                audience="https://worker.example/queues",
                service_account="pusher@example.com",
                issuer=issuer.url,
                certs_url=issuer.certs_url,
            )
            token = issuer.token("https://worker.example/queues", "pusher@example.com")
        ```
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._server = HTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"issuer": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="issuer", daemon=True)
        self.requests: int = 0
        self.answer: tuple[int, bytes] | None = None
        self._keys: dict[str, Any] = {}
        self._made = 0
        self.rotate()

    @property
    def url(self) -> str:
        """The issuer's name, for ``issuer=``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def certs_url(self) -> str:
        """Where its keys are, for ``certs_url=``."""
        return f"{self.url}/certs"

    def rotate(self, *, keep: bool = False) -> str:
        """Sign with a new key from now on; returns its id. Older ones are published no more, unless kept."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        if not keep:
            self._keys.clear()
        self._made += 1
        kid = f"key-{self._made}"
        self._keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        return kid

    def token(self, audience: str, service_account: str, **claims: Any) -> str:
        """A token as Google makes them.

        Args:
            audience: For whom.
            service_account: On whose behalf; an e-mail address.
            **claims: In place of what it would say, or beside it; None leaves one out.
        """
        return self.sign(self.claims(audience, service_account, **claims))

    def claims(self, audience: str, service_account: str, **claims: Any) -> dict[str, Any]:
        """What `token` says."""
        now = int(self._clock.time())
        said = {
            "aud": audience,
            "azp": "113774264463038321964",
            "email": service_account,
            "email_verified": True,
            "exp": now + 3600,
            "iat": now,
            "iss": self.url,
            "sub": "113774264463038321964",
        }
        return {name: value for name, value in (said | claims).items() if value is not None}

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        """A token that says this, signed with the newest key; ``header`` changes or adds to its header."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        kid = list(self._keys)[-1]
        named = {"alg": "RS256", "kid": kid, "typ": "JWT"} | header
        text = ".".join(_packed(json.dumps(each).encode()) for each in (named, claims))
        return f"{text}.{_packed(self._keys[kid].sign(text.encode(), PKCS1v15(), SHA256()))}"

    def public_key(self) -> tuple[str, bytes]:
        """The newest key as everybody may know it: its id, and itself as PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        kid, key = list(self._keys.items())[-1]
        return kid, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def published(self) -> bytes:
        """The JSON Web Key Set."""
        keys = []
        for kid, key in self._keys.items():
            numbers = key.public_key().public_numbers()
            n, e = (_packed(each.to_bytes((each.bit_length() + 7) // 8, "big")) for each in (numbers.n, numbers.e))
            keys.append({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e})
        return json.dumps({"keys": keys}).encode()

    def start(self) -> None:
        """Publish the keys."""
        self._thread.start()

    def close(self) -> None:
        """Publish them no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    issuer: LocalIssuer
    timeout = 5.0

    def do_GET(self) -> None:
        issuer = self.issuer
        issuer.requests += 1
        status, body = issuer.answer or (200, issuer.published())
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if 300 <= status < 400:
            self.send_header("Location", body.decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the server uses
        """Nothing."""


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
