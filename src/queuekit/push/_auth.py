# SPDX-License-Identifier: Apache-2.0
"""Who may push messages to an app: whoever has the right OIDC token, or whoever is on this host."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final

from queuekit._portable.callers import Admission, Caller
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.errors import BackendMissingError, UsageError
from queuekit._values.hosts import is_loopback
from queuekit.push import _tokens
from queuekit.push._fetching import checked_url
from queuekit.push._keys import KeyRing

GOOGLE: Final = "https://accounts.google.com"
GOOGLE_KEYS: Final = "https://www.googleapis.com/oauth2/v3/certs"
# Google's tokens have had both forms.
_GOOGLE_ISSUERS: Final = frozenset({GOOGLE, "accounts.google.com"})
_FORWARDED: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
_BROWSERS: Final = frozenset({"origin", "sec-fetch-site"})

_IN: Final = Admission(200)


class OIDC:
    """Lets in requests with an OIDC token that Google signed, for you, on behalf of your service account.

    A push subscription and a task with a service account send one:
    https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions and
    https://cloud.google.com/tasks/docs/creating-http-target-tasks.

    Each of the three is needed. That Google signed a token proves nothing: anybody can have one, for another
    audience or another account. Keys come from ``certs_url`` alone, never from what a token names; they are kept,
    and serve on while that server is down. What cannot be verified is refused.

    Args:
        audience: What tokens must be made for, exactly: the audience of the push subscription, which is the URL of
            the endpoint as it was configured there unless another was given. Several, where several are in use.
        service_account: The e-mail address of the account that the subscription pushes as. Several, as before.
        issuer: Who makes the tokens; Google by default, as it is Google that pushes. An https URL, or one of this
            host, for tests.
        certs_url: Where the issuer's public keys are; Google's by default. As ``issuer``.
        clock: Time; another one for tests.

    Raises:
        UsageError: Something is empty, or a URL could be forged.
        BackendMissingError: PyJWT or cryptography is not installed.

    Concurrency:
        Safe from any thread.

    Examples:
        ```python
        from queuekit.push import OIDC

        auth = OIDC(
            audience="https://worker.example/queues/",
            service_account="pusher@my-project.iam.gserviceaccount.com",
        )
        ```
    """

    def __init__(
        self,
        *,
        audience: str | Iterable[str],
        service_account: str | Iterable[str],
        issuer: str = GOOGLE,
        certs_url: str = GOOGLE_KEYS,
        clock: Clock | None = None,
    ) -> None:
        if find_spec("jwt") is None or find_spec("cryptography") is None:
            msg = "OIDC tokens need packages that are not installed; pip install 'queuekit[push]'"
            raise BackendMissingError(msg)
        named = checked_url("issuer", issuer)
        self._clock: Clock = clock or SystemClock()
        self._demands = _tokens.Demands(
            _texts("audience", audience),
            _texts("service_account", service_account),
            _GOOGLE_ISSUERS if named == GOOGLE else frozenset({named}),
        )
        self._keys = KeyRing(checked_url("certs_url", certs_url), self._clock)

    def judge(self, caller: Caller) -> Admission:
        """Whether the caller has such a token. Never blocks.

        Returns:
            401 with what is wrong with the token, or 503 where no keys could be fetched to verify one with: whoever
            pushed pushes again. `Admission.learn` says whether `learn` is to be called, and whether before the
            answer.
        """
        try:
            token = _tokens.read(_tokens.bearer(caller.authorization))
            # Before any key is looked for: what is not for us does not make us ask for one.
            self._demands.check(token.claims, self._clock.time())
            key = self._keys.find(token.kid)
            if key is None:
                return self._without_key()
            self._demands.check(_tokens.verified(token, key), self._clock.time())
        except _tokens.TokenError as error:
            return Admission(401, str(error))
        return Admission(200, learn="later") if self._keys.wanted(unknown=False) else _IN

    def learn(self) -> None:
        """Fetch the issuer's keys, unless that was just tried.

        Blocks for as long as their server takes, 5 s at most. Where that fails, ``push.keys_unavailable`` is
        logged, and known keys serve on, for a day.
        """
        self._keys.refresh()

    def _without_key(self) -> Admission:
        learn = self._keys.wanted(unknown=True)
        if self._keys.is_usable:
            return Admission(401, "it is signed by a key that is not known", learn)
        return Admission(503, "the keys to verify it with could not be fetched", learn)


class NoAuth:
    """Lets in whoever is on this host, and nobody else: for development, and for emulators.

    A request is refused if it came in on, or from, an address other than a loopback one, if a proxy passed it on, or
    if a browser sent it on behalf of a page.

    Concurrency:
        Safe from any thread.
    """

    def judge(self, caller: Caller) -> Admission:
        """Whether the caller is on this host. Never blocks.

        Returns:
            403 with the reason where it is not.
        """
        if not (is_loopback(caller.server) and is_loopback(caller.client)):
            return Admission(403, "NoAuth serves this host alone, at a loopback address; use OIDC")
        if not _FORWARDED.isdisjoint(caller.headers):
            return Admission(403, "NoAuth serves this host alone, and a proxy passed this on; use OIDC")
        if not _BROWSERS.isdisjoint(caller.headers):
            return Admission(403, "a page in a browser sent this")
        return _IN

    def learn(self) -> None:
        """There is nothing to learn."""


def _texts(name: str, given: str | Iterable[str]) -> frozenset[str]:
    found = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    if not found or not all(isinstance(each, str) and each.strip() == each != "" for each in found):
        msg = f"{name} must be a text, or several, none of them empty or with spaces around it"
        raise UsageError(msg)
    return frozenset(found)
