# SPDX-License-Identifier: Apache-2.0
"""Tokens that no endpoint may let in: what is wrong with each, and how it is made.

```python
from queuekit.testing.forgeries import FORGERIES
from queuekit.testing.issuer import LocalIssuer

with LocalIssuer() as issuer:
    tokens = [make(issuer, "https://worker.example", "pusher@example.com") for make in FORGERIES.values()]
assert len(tokens) >= 24
```
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from queuekit.testing.issuer import LocalIssuer

Forgery = Callable[[LocalIssuer, str, str], str]
"""Makes a token from an issuer whose good ones are let in, the audience, and the service account."""

_EVIL = "/evil"
_BITS = 2048
_READ_OTHERWISE = ("jku", "x5u", "jwk", "x5c", "x5t", "x5t#S256", "b64", "zip", "enc", "cty")
"""Headers that bring a key, point to one, or change how a token is read."""


def _claims(**claims: Any) -> Forgery:
    return lambda issuer, audience, account: issuer.token(audience, account, **claims)


def _of(change: Callable[[str, str], tuple[str, str]]) -> Forgery:
    return lambda issuer, audience, account: issuer.token(*change(audience, account))


def _later(claim: str, by_s: int) -> Forgery:
    return lambda issuer, audience, account: issuer.token(audience, account, **{claim: _now(issuer) + by_s})


def _headed(**header: Any) -> Forgery:
    return lambda issuer, audience, account: issuer.sign(issuer.claims(audience, account), **header)


def _pointing(name: str) -> Forgery:
    return lambda issuer, audience, account: issuer.sign(
        issuer.claims(audience, account), **{name: f"{issuer.url}{_EVIL}"}
    )


def _unsigned(**header: Any) -> Forgery:
    return lambda issuer, audience, account: (
        _text({"alg": "none", "typ": "JWT"} | header, issuer.claims(audience, account)) + "."
    )


def _by_public_key(issuer: LocalIssuer, audience: str, account: str) -> str:
    """HS256 with what everybody knows."""
    kid, secret = issuer.public_key()
    text = _text({"alg": "HS256", "kid": kid, "typ": "JWT"}, issuer.claims(audience, account))
    return f"{text}.{_packed(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _altered(issuer: LocalIssuer, audience: str, account: str) -> str:
    head, _, signature = issuer.token(audience, "other@example.com").split(".")
    return f"{head}.{_packed(json.dumps(issuer.claims(audience, account)).encode())}.{signature}"


def _by_another_key(issuer: LocalIssuer, audience: str, account: str) -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    kid, _ = issuer.public_key()
    text = _text({"alg": "RS256", "kid": kid, "typ": "JWT"}, issuer.claims(audience, account))
    key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
    return f"{text}.{_packed(key.sign(text.encode(), PKCS1v15(), SHA256()))}"


def _now(issuer: LocalIssuer) -> int:
    return int(issuer.claims("", "")["iat"])


def _text(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    return ".".join(_packed(json.dumps(each).encode()) for each in (header, claims))


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


FORGERIES: Mapping[str, Forgery] = MappingProxyType(
    {
        "an empty token": lambda *_: "",
        "no token at all": lambda *_: "garbage",
        "alg none": _unsigned(),
        "alg none, spelt otherwise": _unsigned(alg="nOnE"),
        "HS256 with the public key": _by_public_key,
        "RS512": _headed(alg="RS512"),
        "another issuer": _claims(iss="https://issuer.example"),
        "another audience": _of(lambda audience, account: (f"{audience}/", account)),
        "a list of audiences": lambda issuer, audience, account: issuer.token(audience, account, aud=[audience]),
        "no audience": _claims(aud=None),
        "another project's account": _of(lambda audience, _: (audience, "pusher@other.iam.gserviceaccount.com")),
        "an account that ends alike": _of(lambda audience, account: (audience, f"x{account}")),
        "an account in other letters": _of(lambda audience, account: (audience, account.upper())),
        "no account": _claims(email=None),
        "an unverified account": _claims(email_verified=False),
        "verified in words": _claims(email_verified="true"),
        "expired": _later("exp", -61),
        "no end": _claims(exp=None),
        "of the future": _later("iat", 120),
        "not valid yet": _later("nbf", 120),
        "an end that is no number": _claims(exp=float("nan")),
        "an unknown key": _headed(kid="unknown"),
        "a key that is a URL": lambda issuer, audience, account: issuer.sign(
            issuer.claims(audience, account), kid=f"{issuer.url}{_EVIL}"
        ),
        "no key": _headed(kid=None),
        **{name: _pointing(name) for name in _READ_OTHERWISE},
        "crit": _headed(crit=["exp"]),
        # With a key that could be new: it is not worth asking for one.
        "alg none, and an unknown key": _unsigned(kid="unknown"),
        "another audience, and an unknown key": lambda issuer, _, account: issuer.sign(
            issuer.claims("x", account), kid="unknown"
        ),
        "a key that is a number": _headed(kid=1),
        "a key that is a list": _headed(kid=["key-1"]),
        "Google's name by another's key": _claims(iss="https://accounts.google.com"),
        "begun in words": _claims(iat="now"),
        "begun in truth": _claims(iat=True),
        "expired a minute ago": _later("exp", -60),
        "an end that no clock reaches": _claims(exp=1e300),
        "deep claims": lambda issuer, audience, account: (
            f"{issuer.token(audience, account).partition('.')[0]}.{_packed(b'[' * 5000)}.x"
        ),
        "a second one behind it": lambda issuer, audience, account: (
            f"{issuer.token(audience, account)}, Bearer {issuer.token(audience, account)}"
        ),
        "altered claims": _altered,
        "another key": _by_another_key,
        "no signature": lambda issuer, audience, account: issuer.token(audience, account).rpartition(".")[0] + ".",
        "endless": _claims(more="x" * 10_000),
    }
)
"""By what is wrong. For an unknown key, the known address may be asked for the keys again, once."""
