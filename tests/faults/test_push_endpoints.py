# SPDX-License-Identifier: Apache-2.0
"""Whoever may not push, or pushes too much: at a real server, for both services that push."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

import queuekit as qk
from queuekit.push import OIDC
from queuekit.testing import VirtualClock
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.forgeries import FORGERIES
from queuekit.testing.issuer import LocalIssuer

from .places import DeclaredPlace
from .pubsub_place import PubSubPlace
from .rows import Result, figure
from .servers import Servers
from .tasks_place import Endpoint, TasksPlace, free_port
from .workers import Workers

pytestmark = pytest.mark.slow
on_pushed = pytest.mark.parametrize("backend", ["cloudtasks", "pubsub"])

AUDIENCE = "https://worker.example/queues"
ACCOUNT = "pusher@my-project.iam.gserviceaccount.com"
LIMIT_S = 60.0
MIB = 2**20
MOST_MORE = 64 * MIB
CLOSED = 0
"""In place of the status of an answer."""
AGED = 61
"""Seconds after which the keys may be asked for again."""


class Form(NamedTuple):
    """A request as a service makes it, which anybody can make."""

    headers: Mapping[str, str]
    body: bytes


def task(text: str) -> Form:
    headers = {"X-CloudTasks-QueueName": "jobs", "X-CloudTasks-TaskName": "1", "X-CloudTasks-TaskRetryCount": "0"}
    return Form({"User-Agent": "Google-Cloud-Tasks", "Content-Type": "text/plain", **headers}, text.encode())


def wrapped(text: str, project: str) -> Form:
    data = base64.b64encode(text.encode()).decode()
    message = {"data": data, "messageId": "1", "publishTime": "2026-11-22T08:00:00Z"}
    body = {"message": message, "subscription": f"projects/{project}/subscriptions/jobs", "deliveryAttempt": 1}
    return Form({"Content-Type": "application/json", "User-Agent": "CloudPubSub-Google"}, json.dumps(body).encode())


class Pushed(NamedTuple):
    """A queue that is pushed, and how."""

    place: DeclaredPlace
    backend: str

    def form(self, text: str) -> Form:
        """A request that pushes a message from it."""
        project = qk.QueueURL.parse(self.place.url("jobs")).hosts[0].name
        return task(text) if self.backend == "cloudtasks" else wrapped(text, project)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.serving.stop()


@pytest.fixture
def pushed(backend: str, servers: Servers, tmp_path: Path) -> Iterator[Pushed]:
    """A queue of a service that pushes; nothing is in it."""
    with ExitStack() as closing:
        place: TasksPlace | PubSubPlace
        if backend == "cloudtasks":
            emulator = closing.enter_context(LocalCloudTasks())
            place = TasksPlace(emulator, tmp_path, "http://127.0.0.1:9/nobody")
        else:
            place = servers.empty_project()
            place.push_to("jobs", "http://127.0.0.1:9/nobody")
        closing.callback(place.close)
        yield Pushed(place, backend)


def bearing(form: Form, token: str) -> dict[str, str]:
    return {**form.headers, "Authorization": f"Bearer {token}".rstrip()}


@on_pushed
def test_S19_tokens_that_must_not_be_let_in(row: Result, pushed: Pushed, endpoint: Endpoint, backend: str) -> None:
    """On virtual time, so that nothing but the token itself keeps the keys from being asked for again."""
    seen, clock = list[str](), VirtualClock()
    app, form = qk.App(pushed.place.app_url), pushed.form("x")

    @app.handler("jobs")
    def note(text: str) -> None:
        seen.append(text)

    with LocalIssuer(clock) as issuer:
        auth = OIDC(
            audience=AUDIENCE, service_account=ACCOUNT, issuer=issuer.url, certs_url=issuer.certs_url, clock=clock
        )
        with app, endpoint.runs(app, auth=auth), httpx.Client(timeout=LIMIT_S) as client:

            def push(token: str) -> int:
                return client.post(endpoint.serving.url, content=form.body, headers=bearing(form, token)).status_code

            assert push(issuer.token(AUDIENCE, ACCOUNT)) == 204
            refused, asked = Counter[int](), Counter[int]()
            for make in FORGERIES.values():
                clock.advance(AGED)
                before = issuer.requests
                refused[push(make(issuer, AUDIENCE, ACCOUNT))] += 1
                asked[issuer.requests - before] += 1
            row.ran(tokens=len(FORGERIES))
            row.found(let_in=len(seen) - 1, refused=refused[401])
            assert (refused, seen) == (Counter({401: len(FORGERIES)}), ["x"])
            assert asked == {0: len(FORGERIES) - 2, 1: 2}, "only for a key that could be new, and where keys are"
            old = issuer.token(AUDIENCE, ACCOUNT)
            clock.advance(AGED)
            issuer.rotate()
            assert [push(issuer.token(AUDIENCE, ACCOUNT)), push(old)] == [204, 401]
            issuer.answer = (500, b"")
            for _ in range(2):
                clock.advance(3600)
                assert push(issuer.token(AUDIENCE, ACCOUNT)) == 204, "known keys serve on"
    assert len(FORGERIES) >= 24


FORGED: Sequence[Mapping[str, str]] = [
    {},
    {"Authorization": "Basic dXNlcjpwdw=="},
    {"Authorization": "Bearer"},
    {"X-AppEngine-QueueName": "jobs", "X-AppEngine-TaskName": "1"},
    {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    {"X-Goog-Authenticated-User-Email": f"accounts.google.com:{ACCOUNT}"},
    {"X-Goog-IAP-JWT-Assertion": "a.b.c", "X-Serverless-Authorization": "Bearer a.b.c"},
    {"X-Goog-Pubsub-Subscription-Name": "projects/shop/subscriptions/jobs", "X-Goog-Pubsub-Message-Id": "1"},
    {"X-CloudTasks-QueueName": "jobs", "X-CloudTasks-TaskName": "1", "From": "noreply@google.com"},
    {"Cookie": "session=1", "Host": "metadata.google.internal"},
]


@on_pushed
def test_S20_requests_that_only_look_like_the_services(
    row: Result, pushed: Pushed, endpoint: Endpoint, backend: str
) -> None:
    seen, form = list[str](), pushed.form("x")
    app = qk.App(pushed.place.app_url)

    @app.handler("jobs")
    def note(text: str) -> None:
        seen.append(text)

    with LocalIssuer() as issuer:
        auth = OIDC(audience=AUDIENCE, service_account=ACCOUNT, issuer=issuer.url, certs_url=issuer.certs_url)
        with app, endpoint.runs(app, auth=auth), httpx.Client(timeout=LIMIT_S) as client:
            statuses = [
                client.post(endpoint.serving.url, content=form.body, headers={**form.headers, **each}).status_code
                for each in FORGED
            ]
            good = bearing(form, issuer.token(AUDIENCE, ACCOUNT))
            row.ran(requests=len(FORGED))
            row.found(let_in=len(seen))
            assert (statuses, seen) == ([401] * len(FORGED), [])
            assert client.post(endpoint.serving.url, content=form.body, headers=good).status_code == 204
    assert seen == ["x"]


@on_pushed
def test_S21_requests_that_are_too_much(row: Result, pushed: Pushed, tmp_path: Path, backend: str) -> None:
    """By `queuekit worker` in a process of its own, so that its memory can be told. All have a token that lets in."""
    parallel, port = figure(10_000, 2_500), free_port()  # more than a server keeps connections
    row.ran(parallel=parallel)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, parallel + 1000)), hard))  # the server's, too
    workers = Workers(tmp_path, pushed.place)
    workers.app = "pushed_app"
    with LocalIssuer() as issuer:
        let_in = ["--audience", AUDIENCE, "--service-account", ACCOUNT]
        let_in += ["--issuer", issuer.url, "--certs-url", issuer.certs_url]
        try:
            pid = workers.start("jobs", "--port", f"{port}", *let_in)
            workers.until(lambda _: "push.started" in workers.log())
            form = pushed.form('{"number": 7}')
            headers = bearing(form, issuer.token(AUDIENCE, ACCOUNT))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client:
                assert client.post("/", content=form.body, headers=headers).status_code == 204
                before = resident(pid)
                singly = {
                    "100 MB": client.post("/", content=(b" " * MIB for _ in range(100)), headers=headers),
                    "100 MB, told": client.post("/", content=b" " * (100 * MIB), headers=headers),
                    "gzip": client.post("/", content=form.body, headers={**headers, "Content-Encoding": "gzip"}),
                    "GET": client.get("/", headers=headers),
                    "a form": client.post("/", data={"a": "b"}, headers={"Authorization": headers["Authorization"]}),
                }
            statuses = {name: each.status_code for name, each in singly.items()}
            most = Peak(pid)
            flood = asyncio.run(flood_of(port, parallel, headers))
            more = most.end() - before
            workers.until(lambda _: answered(port, form, headers))
            assert workers.stop() == {pid: 0}
        finally:
            workers.end()
    row.found(
        megabytes_more=round(more / MIB, 1),
        **{f"answered_{status}" if status else "closed": times for status, times in flood.items()},
    )
    assert statuses == {"100 MB": 413, "100 MB, told": 413, "gzip": 415, "GET": 405, "a form": 415}
    assert set(flood) <= {408, 429, CLOSED}, flood
    assert flood[408] >= 500
    assert flood[CLOSED] >= parallel - 1500, "so many connections are kept, and no more"
    assert flood.total() == parallel
    assert more <= MOST_MORE
    assert len(workers.lines()) == 2, "those before and after; no other reached a handler"


def answered(port: int, form: Form, headers: Mapping[str, str]) -> bool:
    """Whether a request that is right is done."""
    answer = httpx.post(f"http://127.0.0.1:{port}/", content=form.body, headers=dict(headers), timeout=LIMIT_S)
    return answer.status_code == 204


async def flood_of(port: int, parallel: int, headers: Mapping[str, str]) -> Counter[int]:
    """So many requests at once, of which none sends the whole of its body: how each is answered."""
    head = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    request = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: 100000\r\n\r\n".encode() + b"x" * 10_000
    at_once = asyncio.Barrier(parallel)

    async def push() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await at_once.wait()
        try:
            writer.write(request)
            line = await reader.readline()
        except ConnectionError:
            return CLOSED
        finally:
            writer.close()
        return int(line.split()[1]) if line else CLOSED

    async with asyncio.timeout(2 * LIMIT_S):
        return Counter(await asyncio.gather(*(push() for _ in range(parallel))))


class Peak:
    """The most memory that a process had, from now to the end."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self._most = max(self._most, resident(self._pid))
        self._most = max(self._most, resident(self._pid))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * 4096
