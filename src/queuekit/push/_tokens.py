# SPDX-License-Identifier: Apache-2.0
"""What a bearer token says, and whether it may say so. Pure: nothing that a token names is ever looked up."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

_LONGEST: Final = 8192
_PARTS: Final = 3
_LOOKED_AT: Final = ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")
_LATEST_S: Final = 1e12
_LEEWAY_S: Final = 60.0
# Each brings a key, points to one, or changes how the token is to be read.
_FORBIDDEN: Final = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "b64", "zip", "enc", "cty"})


class TokenError(Exception):
    """The token does not do; the message says why, and holds nothing of it."""


class Token(NamedTuple):
    """A token that was read, and whose signature nobody has looked at.

    Attributes:
        text: As it came.
        kid: The id of the key that is said to have signed it.
        claims: What it says.
    """

    text: str
    kid: str
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Demands:
    """What a token must say.

    Attributes:
        audiences: For whom it may be made.
        accounts: The e-mail addresses that may have asked for it.
        issuers: Who may have made it.
    """

    audiences: frozenset[str]
    accounts: frozenset[str]
    issuers: frozenset[str]

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Hold claims against this.

        Raises:
            TokenError: They say something else.
        """
        _among(claims, "iss", self.issuers, "its issuer is another")
        _among(claims, "aud", self.audiences, "its audience is another than audience= says")
        _among(claims, "email", self.accounts, "it was made for another account than service_account= says")
        if claims.get("email_verified") is not True:
            raise TokenError("its e-mail address is not verified")
        if _instant(claims, "exp") + _LEEWAY_S <= now:
            raise TokenError("it has expired")
        if _instant(claims, "iat") - _LEEWAY_S > now:
            raise TokenError("it was made in the future")
        if "nbf" in claims and _instant(claims, "nbf") - _LEEWAY_S > now:
            raise TokenError("it is not valid yet")


def bearer(authorization: str | None) -> str:
    """The token in an ``Authorization`` header.

    Raises:
        TokenError: There is none.
    """
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise TokenError("there is no bearer token")
    return text.strip()


def read(text: str) -> Token:
    """Read a token, without believing it.

    Raises:
        TokenError: It has not the form of one that is signed by RS256 with a key that is known by its id.
    """
    parts = text.split(".")
    if len(text) > _LONGEST or len(parts) != _PARTS or not text.isascii():
        raise TokenError("it is no signed token")
    header = _object(parts[0])
    if header.get("alg") != "RS256":
        raise TokenError("it is not signed by RS256")
    if not _FORBIDDEN.isdisjoint(header):
        raise TokenError("its header brings a key of its own, or demands more than is known here")
    kid = header.get("kid")
    if not (isinstance(kid, str) and kid):
        raise TokenError("it names no key")
    return Token(text, kid, _object(parts[1]))


def verified(token: Token, key: Any) -> Mapping[str, Any]:
    """The claims of a token whose signature is right.

    Raises:
        TokenError: It is not.
    """
    import jwt

    # What claims must be is said by `Demands`, by the clock that was given; of PyJWT only the signature is wanted.
    options: Any = dict.fromkeys((f"verify_{name}" for name in _LOOKED_AT), False)
    try:
        claims: Mapping[str, Any] = jwt.decode(token.text, key, algorithms=["RS256"], options=options)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise TokenError("its signature is wrong") from error
    return claims


def _object(part: str) -> Mapping[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TokenError("it is no signed token")
    return found


def _among(claims: Mapping[str, Any], name: str, allowed: frozenset[str], otherwise: str) -> None:
    said = claims.get(name)
    if not (isinstance(said, str) and said in allowed):
        raise TokenError(otherwise)


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LATEST_S:
        raise TokenError(f"it does not say {name} in seconds")
    return float(value)
