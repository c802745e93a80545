# SPDX-License-Identifier: Apache-2.0
"""The public keys of one issuer: fetched from the address that was configured, and kept."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Mapping
from typing import Any, Final, Literal

from queuekit._values.clock import Clock
from queuekit.push._fetching import FetchError, fetch

logger = logging.getLogger("queuekit")

_FRESH_S: Final = 3600.0
_LONGEST_S: Final = 86_400.0
_AGAIN_S: Final = 60.0
_FIRST_AGAIN_S: Final = 5.0
_MOST: Final = 100
_LEAST_BITS: Final = 2048


class KeyRing:
    """Keeps the keys by their ids.

    They are fetched again when they are an hour old, beside the requests, and when a token names one that is not
    there; never twice within a minute. While their server is down they serve on, for a day.

    Args:
        url: Where they are; a JSON Web Key Set.
        clock: Time.

    Concurrency:
        Safe from any thread.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._url, self._clock = url, clock
        self._fetching = threading.Lock()
        self._keys: Mapping[str, Any] = {}
        self._fetched_at = self._tried_at = -math.inf

    def find(self, kid: str) -> Any:
        """The key with this id; None where it is not known, or too old."""
        return self._keys.get(kid) if self.is_usable else None

    @property
    def is_usable(self) -> bool:
        """Whether there are keys that may still be trusted."""
        return self._clock.monotonic() - self._fetched_at < _LONGEST_S

    def wanted(self, *, unknown: bool) -> Literal["", "now", "later"]:
        """Whether `refresh` would fetch.

        Args:
            unknown: Whether a key was asked for and is not there.
        """
        now = self._clock.monotonic()
        usable = self.is_usable
        if now - self._tried_at < (_AGAIN_S if usable else _FIRST_AGAIN_S):
            return ""
        if unknown or not usable:
            return "now"
        return "later" if now - self._fetched_at >= _FRESH_S else ""

    def refresh(self) -> None:
        """Fetch the keys, unless that was just tried; whoever comes meanwhile waits for it."""
        with self._fetching:
            if not self.wanted(unknown=True):
                return
            try:
                keys = read_keys(fetch(self._url, self._clock))
            except FetchError as error:
                # Not before: whoever needs a key while they are on their way has them fetched, and waits.
                self._tried_at = self._clock.monotonic()
                detail = "those that are known serve on" if self.is_usable else "no token can be verified"
                extra = {"action": "push.keys_unavailable"}
                logger.warning("push.keys_unavailable: %s: %s; %s", self._url, error, detail, extra=extra)
                return
            # Replaced as a whole: a key that was withdrawn is trusted no more.
            self._keys, self._fetched_at = keys, self._clock.monotonic()
            self._tried_at = self._fetched_at


def read_keys(document: bytes) -> Mapping[str, Any]:
    """The keys of a JSON Web Key Set that sign by RS256, by id; others are left out.

    Raises:
        FetchError: It is no such set, or has no such key.
    """
    try:
        listed = json.loads(document)["keys"]
        entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    except (ValueError, TypeError, KeyError, RecursionError):
        entries = []
    found = {each["kid"]: key for each in entries[:_MOST] if (key := _key(each)) is not None}
    if not found:
        msg = "the answer is no JSON Web Key Set with RSA keys"
        raise FetchError(msg)
    return found


def _key(entry: Mapping[str, Any]) -> Any:
    from jwt.algorithms import RSAAlgorithm
    from jwt.exceptions import InvalidKeyError

    kid, named = entry.get("kid"), entry.get("alg", "RS256")
    if not (isinstance(kid, str) and kid) or named != "RS256" or entry.get("use", "sig") != "sig":
        return None
    if entry.get("kty") != "RSA" or "d" in entry:
        return None
    try:
        key: Any = RSAAlgorithm.from_jwk({name: entry[name] for name in ("kty", "n", "e")})
    except (InvalidKeyError, ValueError, TypeError, KeyError):
        return None
    return key if key.key_size >= _LEAST_BITS else None
