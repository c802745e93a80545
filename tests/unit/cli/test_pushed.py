# SPDX-License-Identifier: Apache-2.0
"""Who may push to ``queuekit worker``, and which queues it serves."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

import queuekit as qk
from queuekit.cli.pushed import Serving, pushed_queues
from queuekit.cli.worker import work
from queuekit.push import OIDC, NoAuth
from queuekit.push._server import serve
from queuekit.testing.faults import FaultyOpener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_host_needs_no_token(host: str) -> None:
    assert isinstance(Serving(host=host).auth(), NoAuth)


def test_others_do() -> None:
    known = {"audience": ["https://worker.example"], "service_account": ["a@example.com"]}
    assert isinstance(Serving(host="0.0.0.0", **known).auth(), OIDC)
    assert isinstance(Serving(**known, issuer="http://127.0.0.1:1", certs_url="http://127.0.0.1:1/c").auth(), OIDC)
    with pytest.raises(qk.UsageError, match="say who may by --audience and --service-account"):
        Serving(host="0.0.0.0").auth()
    with pytest.raises(qk.UsageError, match="service_account"):
        Serving(audience=["https://worker.example"]).auth()


def app_of(*queues: str, **can: Any) -> qk.App:
    app = qk.App("memory://")
    app._opener = FaultyOpener(app._opener, **can)
    for queue in queues:
        app.handler(queue)(handle)
    return app


def handle(text: str) -> None:
    """What never comes."""


def test_a_queue_that_only_pushes_is_served() -> None:
    assert not pushed_queues(app_of("a", "b"), ())
    assert pushed_queues(app_of("a", "b", pushes="answered", receives=False), ())


def test_queues_of_both_kinds_need_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of("a", "pubsub://project/orders")
    honest = app._opener.open

    def open_(url: qk.QueueURL, keywords: Any = None) -> Any:
        pushed = url.scheme == "pubsub"
        opener = FaultyOpener(qk.App("memory://")._opener, pushes="answered", receives=False)
        return opener.open(qk.QueueURL.parse("memory://b")) if pushed else honest(url, keywords)

    monkeypatch.setattr(app._opener, "open", open_)
    with pytest.raises(qk.UsageError, match="run two workers, each with its --queue"):
        pushed_queues(app, ())
    assert pushed_queues(app, ["pubsub://project/orders"])


def test_an_address_is_refused_where_nothing_is_pushed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fetched_tasks.py").write_text(
        "import queuekit as qk\napp = qk.App('memory://')\n@app.handler('q')\ndef handle(text: str) -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(qk.UsageError, match="--port: nothing pushes"):
        work("fetched_tasks:app", serving={"port": 8080})


def test_what_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of("a")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(qk.BackendMissingError, match=r"pip install 'queuekit\[push\]'"):
        serve(app, app.asgi(auth=NoAuth()), host="127.0.0.1", port=0, drain_s=1.0)
    monkeypatch.setattr("queuekit.push._auth.find_spec", lambda _name: None)
    with pytest.raises(qk.BackendMissingError, match=r"pip install 'queuekit\[push\]'"):
        OIDC(audience="a", service_account="b")


def test_a_port_that_is_taken_is_named() -> None:
    app = app_of("a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(qk.UsageError, match=f"cannot listen on 127.0.0.1, port {port}"):
            serve(app, app.asgi(auth=NoAuth()), host="127.0.0.1", port=port, drain_s=1.0)
