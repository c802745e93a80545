# SPDX-License-Identifier: Apache-2.0
"""Which work was done, in a Redis or Valkey server: for any number of hosts.

A key of its own for each piece of work, always with a time to live. Claims end by the server's clock. A server that
loses its data forgets what was done, and evicts it where its maxmemory-policy says so.
"""

from __future__ import annotations

import hashlib
from typing import Any

from redis import exceptions

from queuekit._values.options import read_options
from queuekit.backends.redis._connections import Connections
from queuekit.backends.redis._options import FORMS, RedisOptions, Target, target_of
from queuekit.backends.redis._scripts import load
from queuekit.stores import Claim, ClaimState, Clock, InvalidURLError, QueueURL, StoreSpec

_PREFIX = "qk:idempotent:"
_CONNECT_S = 5.0
_CALL_S = 30.0
# A claim that ran out is remembered for longer, because its owner may still complete it.
_AFTERLIFE_S = 3600.0
_OPTIONS = frozenset({"database", "answer_timeout", "tls", "ca_file", "sentinel_user", "sentinel_password"})
"""Those of a queue's URL that say where the server is."""


class RedisIdempotency:
    """Keys in one server or cluster, shared by everybody who opens it.

    Args:
        target: What the URL points to.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connections = Connections(target)

    def claim(self, key: str, *, owner: str, lease_s: float, fingerprint: str) -> Claim:
        """See `IdempotencyStore.claim`; ends by the server's clock."""
        state, left_us = self._run("claim", key, owner, fingerprint, _us(lease_s), _us(_AFTERLIFE_S))
        return Claim(ClaimState(state.decode()), left_us / 1e6)

    def renew(self, key: str, *, owner: str, lease_s: float) -> bool:
        """See `IdempotencyStore.renew`."""
        return bool(self._run("renew", key, owner, _us(lease_s), _us(_AFTERLIFE_S)))

    def complete(self, key: str, *, owner: str, keep_s: float) -> bool:
        """See `IdempotencyStore.complete`."""
        return bool(self._run("complete", key, owner, _us(keep_s)))

    def forget(self, key: str, *, owner: str) -> bool:
        """See `IdempotencyStore.forget`."""
        return bool(self._run("forget", key, owner))

    def close(self) -> None:
        """Close the connections; a later call opens them again."""
        connections, self._connections = self._connections, Connections(self._target)
        connections.close()

    def _run(self, step: str, key: str, *args: str) -> Any:
        try:
            return self._run_once(step, key, *args)
        except (exceptions.ConnectionError, exceptions.ReadOnlyError):
            # The server was restarted, or another took its place. Its owner may take each step twice.
            return self._run_once(step, key, *args)

    def _run_once(self, step: str, key: str, *args: str) -> Any:
        name = _name(key)
        way = self._connections.for_key(name)
        return way.run(load(f"idempotent_{step}"), (name,), *args, timeout_s=_CALL_S)


def _name(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no server takes
        key = "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return _PREFIX + key


def _us(seconds: float) -> str:
    return str(round(seconds * 1e6))


def _open(url: QueueURL, clock: Clock) -> RedisIdempotency:  # noqa: ARG001 - the server's clock is what counts
    unknown = sorted(url.options.keys() - _OPTIONS)
    if unknown:
        msg = (
            f"a {url.scheme} store's URL takes no options but those of its connection, and has {', '.join(unknown)}; "
            "leave them out"
        )
        raise InvalidURLError(msg)
    options = read_options(RedisOptions, url.options, {}, scheme=url.scheme)
    return RedisIdempotency(target_of(url, options, _CONNECT_S))


STORE = StoreSpec(open=_open, forms=tuple(form.partition("?")[0] for form in FORMS))
