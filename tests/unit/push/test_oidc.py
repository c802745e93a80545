# SPDX-License-Identifier: Apache-2.0
"""Tokens of callers: 24 bad ones, keys that change, and a key server that is down, slow or lying."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from queuekit import UsageError
from queuekit._portable.callers import Caller
from queuekit.push import OIDC, NoAuth
from queuekit.push._fetching import LIMIT_S
from queuekit.testing.clock import VirtualClock
from queuekit.testing.emulators import Authority
from queuekit.testing.forgeries import FORGERIES
from queuekit.testing.issuer import LocalIssuer

AUDIENCE = "https://worker.example/queues?q=1"
ACCOUNT = "pusher@my-project.iam.gserviceaccount.com"

Make = Callable[[LocalIssuer], str | None]


@pytest.fixture(scope="module")
def signer() -> Iterator[LocalIssuer]:
    # Making a key takes a moment, and most tests need no other.
    with LocalIssuer(VirtualClock()) as made:
        yield made


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def issuer(signer: LocalIssuer, clock: VirtualClock) -> LocalIssuer:
    signer._clock, signer.requests, signer.answer = clock, 0, None
    return signer


@pytest.fixture
def oidc(issuer: LocalIssuer, clock: VirtualClock) -> OIDC:
    return OIDC(
        audience=AUDIENCE, service_account=ACCOUNT, issuer=issuer.url, certs_url=issuer.certs_url, clock=clock
    )


def caller(token: str | None) -> Caller:
    return Caller(None if token is None else f"Bearer {token}", "203.0.113.7", "203.0.113.8", frozenset())


def status_of(oidc: OIDC, token: str | None) -> int:
    """What an endpoint answers, which learns where it is told to."""
    admission = oidc.judge(caller(token))
    if admission.learn == "now":
        oidc.learn()
        admission = oidc.judge(caller(token))
    return admission.status


def good(issuer: LocalIssuer, **claims: Any) -> str:
    return issuer.token(AUDIENCE, ACCOUNT, **claims)


BAD: dict[str, Make] = {
    "no header": lambda _: None,
    "letters beyond ASCII": lambda issuer: good(issuer) + "ü",
    **{name: lambda issuer, make=make: make(issuer, AUDIENCE, ACCOUNT) for name, make in FORGERIES.items()},  # type: ignore[misc]  # mypy takes the default for a second argument
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused_and_asks_for_nothing_that_it_names(
    oidc: OIDC, issuer: LocalIssuer, clock: VirtualClock, name: str
) -> None:
    assert status_of(oidc, good(issuer)) == 200
    clock.advance(61)  # so that nothing but the token itself keeps the keys from being fetched again
    assert status_of(oidc, BAD[name](issuer)) == 401
    # The pinned address is asked once for the keys, and once more for a key that could be new.
    assert issuer.requests == (2 if name in {"an unknown key", "a key that is a URL"} else 1)


def test_there_are_two_dozen_of_them() -> None:
    assert len(BAD) >= 24


def test_a_good_token_is_let_in(oidc: OIDC, issuer: LocalIssuer, clock: VirtualClock) -> None:
    assert status_of(oidc, good(issuer)) == 200
    assert status_of(oidc, good(issuer, exp=int(clock.time()) - 59, iat=int(clock.time()) + 59)) == 200
    assert status_of(oidc, good(issuer, iat=int(clock.time()) - 3600)) == 200
    assert oidc.judge(caller(good(issuer))._replace(authorization=f"bearer  {good(issuer)}")).status == 200
    assert issuer.requests == 1


def test_both_of_googles_names_are_google(issuer: LocalIssuer, clock: VirtualClock) -> None:
    google = OIDC(
        audience=AUDIENCE, service_account=[ACCOUNT, "b@example.com"], certs_url=issuer.certs_url, clock=clock
    )
    for name in ("accounts.google.com", "https://accounts.google.com"):
        assert status_of(google, good(issuer, iss=name, email="b@example.com")) == 200
    assert status_of(google, good(issuer)) == 401


def test_a_new_key_is_fetched_once_a_minute_at_most(oidc: OIDC, issuer: LocalIssuer, clock: VirtualClock) -> None:
    old = good(issuer)
    assert status_of(oidc, old) == 200
    issuer.rotate()
    assert status_of(oidc, good(issuer)) == 401
    clock.advance(60)
    for _ in range(3):
        assert status_of(oidc, issuer.sign(issuer.claims(AUDIENCE, ACCOUNT), kid="unknown")) == 401
    assert issuer.requests == 2
    assert status_of(oidc, good(issuer)) == 200
    assert status_of(oidc, old) == 401, "its key was withdrawn"


def test_known_keys_serve_on_for_a_day_while_their_server_is_down(
    oidc: OIDC, issuer: LocalIssuer, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert status_of(oidc, good(issuer)) == 200
    issuer.answer = (500, b"")
    for _ in range(23):
        clock.advance(3600)
        admission = oidc.judge(caller(good(issuer)))
        assert (admission.status, admission.learn) == (200, "later")
        oidc.learn()
        assert oidc.judge(caller(good(issuer))) == (200, "", "")
    clock.advance(3600)
    assert status_of(oidc, good(issuer)) == 503, "it fails closed"
    assert [getattr(each, "action", "") for each in caplog.records] == ["push.keys_unavailable"] * 24
    issuer.answer = None
    clock.advance(5)
    assert status_of(oidc, good(issuer)) == 200


def test_keys_are_fetched_beside_the_requests_after_an_hour(
    oidc: OIDC, issuer: LocalIssuer, clock: VirtualClock
) -> None:
    assert status_of(oidc, good(issuer)) == 200
    clock.advance(3599)
    assert oidc.judge(caller(good(issuer))).learn == ""
    clock.advance(1)
    assert oidc.judge(caller(good(issuer))).learn == "later"
    oidc.learn()
    assert (oidc.judge(caller(good(issuer))).learn, issuer.requests) == ("", 2)


WRONG = {
    "a redirect": (302, b"/certs"),
    "no JSON": (200, b"<html>"),
    "no set": (200, b"[]"),
    "a set of nothing": (200, b'{"keys": []}'),
    "strange entries": (
        200,
        b'{"keys": [1, {}, {"kid": "key-1", "kty": "RSA", "n": "AQ", "e": "AQAB"}, {"kid": 5}]}',
    ),
    "a secret": (200, b'{"keys": [{"kid": "key-1", "kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}'),
    "too much": (200, b" " * (256 * 1024 + 1)),
    "deep": (200, b'{"keys":' + b"[" * 100_000),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_no_key(oidc: OIDC, issuer: LocalIssuer, name: str) -> None:
    issuer.answer = WRONG[name]
    assert status_of(oidc, good(issuer)) == 503
    assert status_of(oidc, good(issuer)) == 503
    assert issuer.requests == 1, "neither followed, nor asked again at once"


class DrippingClock(VirtualClock):
    """One second passes each time that the clock is read."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


def test_a_server_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/certs"
        oidc = OIDC(audience=AUDIENCE, service_account=ACCOUNT, certs_url=url, clock=DrippingClock())
        fetching = threading.Thread(target=oidc.learn)
        fetching.start()
        wire, _ = server.accept()
        with wire, suppress(OSError):
            wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(500):
                wire.sendall(b" ")
                fetching.join(0.01)
                if not fetching.is_alive():
                    break
            assert not fetching.is_alive(), "each byte would have bought it time"
        fetching.join(2 * LIMIT_S)


def test_keys_that_come_with_an_error_or_too_much_beside_them_are_none(oidc: OIDC, issuer: LocalIssuer) -> None:
    for answer in (
        (500, issuer.published()),
        (203, issuer.published()),
        (200, issuer.published() + b" " * 256 * 1024),
    ):
        issuer.answer = answer
        oidc.learn()
        assert status_of(oidc, good(issuer)) == 503
        issuer._clock.advance(5)  # type: ignore[attr-defined]
    issuer.answer = None
    assert status_of(oidc, good(issuer)) == 200


@pytest.mark.parametrize("wrong", ["unknown authority", "another name"])
def test_a_key_server_that_proves_nothing_is_not_asked(tmp_path: Path, wrong: str, monkeypatch: Any) -> None:
    authority = Authority(tmp_path)
    names = ["issuer.example"] if wrong == "another name" else ["localhost"]
    if wrong == "another name":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    certificate = authority.issue(names)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.file, certificate.key)
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            wire, _ = server.accept()
            with wire, suppress(OSError), context.wrap_socket(wire, server_side=True) as secure:
                asked.append(secure.recv(1000))

        serving = threading.Thread(target=serve)
        serving.start()
        url = f"https://localhost:{server.getsockname()[1]}/certs"
        oidc = OIDC(audience=AUDIENCE, service_account=ACCOUNT, certs_url=url)
        oidc.learn()
        serving.join(2 * LIMIT_S)
    assert [each for each in asked if each] == []


BAD_URLS: list[Any] = [
    "http://issuer.example",
    "http://127.0.0.1.issuer.example",
    "http://10.0.0.1/",
    "ftp://127.0.0.1",
    "https://",
    "https://user:pw@issuer.example",
    "https://issuer.example/#x",
    "https://issuer.example:x",
    "https://issuer.example /",
    "https://issuer.example\r\n",
    "file:///etc/passwd",
    "issuer.example",
    "",
    None,
    7,
]


@pytest.mark.parametrize("url", BAD_URLS, ids=repr)
@pytest.mark.parametrize("name", ["issuer", "certs_url"])
def test_a_url_that_can_be_forged_is_refused(name: str, url: Any) -> None:
    with pytest.raises(UsageError, match=name):
        OIDC(audience=AUDIENCE, service_account=ACCOUNT, **{name: url})


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://[::1]:8080/certs", "http://127.9.9.9", "https://x.y/z?a=b"]
)
def test_a_url_that_cannot_be_is_not(url: str) -> None:
    assert OIDC(audience=AUDIENCE, service_account=ACCOUNT, issuer=url, certs_url=url) is not None


@pytest.mark.parametrize("value", ["", [], ["a", ""], " a", None, 7, [None]], ids=repr)
@pytest.mark.parametrize("name", ["audience", "service_account"])
def test_what_tokens_must_say_must_be_said(name: str, value: Any) -> None:
    known: dict[str, Any] = {"audience": AUDIENCE, "service_account": ACCOUNT}
    with pytest.raises(UsageError, match=name):
        OIDC(**known | {name: value})


HERE = Caller(None, "127.0.0.1", "127.0.0.1", frozenset({"host", "content-type"}))


def test_no_auth_serves_this_host() -> None:
    assert NoAuth().judge(HERE).status == 200
    assert NoAuth().judge(HERE._replace(server="::1", client="::ffff:127.0.0.1")).status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"server": "203.0.113.7"},
        {"server": "0.0.0.0"},
        {"server": ""},
        {"client": "10.0.0.3"},
        {"client": ""},
        {"client": "::ffff:10.0.0.3"},
        {"headers": frozenset({"x-forwarded-for"})},
        {"headers": frozenset({"via"})},
        {"headers": frozenset({"origin"})},
        {"headers": frozenset({"sec-fetch-site"})},
    ],
    ids=repr,
)
def test_no_auth_serves_nobody_else(changes: dict[str, Any]) -> None:
    assert NoAuth().judge(HERE._replace(**changes)).status == 403


def test_keys_are_fetched_once_however_many_wait(oidc: OIDC, issuer: LocalIssuer) -> None:
    threads = [threading.Thread(target=oidc.learn) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert issuer.requests == 1
    assert oidc.judge(caller(good(issuer))).status == 200
