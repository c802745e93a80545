# SPDX-License-Identifier: Apache-2.0
"""Which keys of a JSON Web Key Set may verify a token."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from queuekit.push._fetching import FetchError
from queuekit.push._keys import read_keys


def packed(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def entry(bits: int = 2048, **more: Any) -> dict[str, Any]:
    """A key as Google publishes it."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits).private_numbers()
    public = private.public_numbers
    known = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "a", "n": packed(public.n), "e": packed(public.e)}
    if more.pop("secret", False):
        known["d"] = packed(private.d)
    return {name: value for name, value in (known | more).items() if value is not None}


GOOD = entry()


def ids(*entries: Any) -> list[str]:
    return sorted(read_keys(json.dumps({"keys": entries}).encode()))


def test_a_key_may_leave_out_what_it_is_for() -> None:
    assert ids(GOOD) == ids({**GOOD, "alg": "RS256"}) == ["a"]
    assert ids({name: value for name, value in GOOD.items() if name not in {"use", "alg"}}) == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": None},
        {"kty": "oct"},
        {"kty": "EC", "crv": "P-256"},
        {"kty": None},
        {"kid": ""},
        {"kid": 5},
        {"kid": ["a"]},
        {"n": None},
        {"n": "AQ"},
        {"n": "="},
        {"e": 7},
    ],
    ids=repr,
)
def test_a_key_for_something_else_is_left_out(wrong: dict[str, Any]) -> None:
    other = {**GOOD, "kid": "b"} | wrong
    assert ids(GOOD, other) == ["a"]
    with pytest.raises(FetchError, match="no JSON Web Key Set"):
        ids(other)


def test_a_private_key_is_nobodys_public_one() -> None:
    assert ids(GOOD, entry(kid="b", secret=True)) == ["a"]


def test_a_short_key_proves_nothing() -> None:
    assert ids(GOOD, entry(1024, kid="b")) == ["a"]


def test_of_very_many_keys_the_first_hundred_count() -> None:
    assert len(ids(*({**GOOD, "kid": f"{number:03}"} for number in range(150)))) == 100
