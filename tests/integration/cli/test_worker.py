# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
from pathlib import Path

import pytest

import queuekit as qk

from .conftest import Start

SHOP = """
import os
import threading
from datetime import timedelta
from pathlib import Path
import queuekit as qk

app = qk.App("sqlite:///jobs.db")
no_app = 3
hold = threading.Event()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@app.handler("orders", concurrency=1, prefetch=10)
def order(number: int) -> None:
    say("begun", number)
    while not Path("go").exists():
        hold.wait(0.01)
    say("done", number)

@app.handler("other")
def other(text: str) -> None:
    say("other", text)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def url(shop: Path, queue: str = "orders") -> str:
    return f"sqlite:///{shop}/jobs.db?queue={queue}"


def send(shop: Path, count: int) -> None:
    with qk.Producer[int](url(shop), payload=int) as orders:
        orders.send_many(range(count)).raise_for_failures()


def test_sigterm_drains_and_releases_at_once_what_has_not_started(shop: Path, queuekit: Start) -> None:
    send(shop, 5)
    worker = queuekit("worker", "shop:app", "--drain", "20s")
    worker.wait_for("begun 0")
    worker.signal(signal.SIGTERM)
    worker.wait_for("worker.draining")
    # The one that runs goes on; the others are somebody else's within a moment, as first attempts.
    with qk.Consumer[int](url(shop), payload=int) as others:
        numbers = []
        for _ in range(4):
            delivery = others.receive(timeout=10)
            assert delivery is not None
            assert delivery.attempt == 1
            numbers.append(delivery.payload)
            delivery.ack()
    assert numbers == [1, 2, 3, 4]
    (shop / "go").touch()
    assert worker.wait() == qk.ExitCode.DRAINED
    assert "done 0" in worker.out
    assert "begun 1" not in worker.out


def test_handlers_run_in_child_processes_where_asked(shop: Path, queuekit: Start) -> None:
    (shop / "go").touch()
    send(shop, 20)
    worker = queuekit("worker", "shop:app", "--processes", "2")
    worker.wait_for("done", count=20)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == qk.ExitCode.DRAINED
    assert sorted(int(line.split()[1]) for line in worker.out.splitlines() if line.startswith("done")) == [*range(20)]


def test_ctrl_c_drains_too(shop: Path, queuekit: Start) -> None:
    (shop / "go").touch()
    send(shop, 1)
    worker = queuekit("worker", "shop:app")
    worker.wait_for("done 0")
    worker.signal(signal.SIGINT)
    assert worker.wait() == qk.ExitCode.DRAINED


def test_the_drain_that_was_asked_for_is_the_one_that_holds(shop: Path, queuekit: Start) -> None:
    send(shop, 1)
    worker = queuekit("worker", "shop:app", "--drain", "50ms")
    worker.wait_for("begun 0")
    worker.signal(signal.SIGTERM)
    worker.wait_for("worker.draining")
    worker.wait_for("at most 0.05 s")
    worker.wait()
    with qk.Consumer(url(shop)) as others:
        assert others.receive(timeout=10) is not None  # released when the time was over


def test_only_the_named_queues_are_worked(shop: Path, queuekit: Start) -> None:
    (shop / "go").touch()
    with qk.Producer[str](url(shop, "other"), payload=str) as producer:
        producer.send("hello")
    send(shop, 1)
    worker = queuekit("worker", "shop:app", "--queue", "orders")
    worker.wait_for("done 0")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "other" not in worker.out + worker.err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop", "'shop' names no app; name the app as MODULE:ATTRIBUTE"),
        ("shop.py:app", "there is no module 'shop.py'"),
        ("./shop:app", "'./shop:app' names no app"),
        ("nowhere:app", "there is no module 'nowhere' in this folder"),
        ("shop.tasks:app", "there is no module 'shop.tasks'"),
        ("shop:nothing", "module 'shop' has no attribute 'nothing'"),
        ("shop:no_app", "'shop:no_app' is no queuekit.App; it is of type int"),
        ("broken:app", "importing 'broken' failed (*broken.py, line 2): KeyError: 'nix'"),
        ("needs:app", "importing 'needs' failed (*needs.py, line 1): ModuleNotFoundError: No module named 'absent'"),
        ("syntax:app", "importing 'syntax' failed: SyntaxError: "),
    ],
)
def test_a_target_that_is_no_app_is_named_in_one_line(shop: Path, queuekit: Start, target: str, said: str) -> None:
    (shop / "broken.py").write_text("import os\nos.environ['nix']\n")
    (shop / "needs.py").write_text("import absent\n")
    (shop / "syntax.py").write_text("def (\n")
    worker = queuekit("worker", target)
    assert worker.wait() == qk.ExitCode.USAGE
    start, _, end = said.partition("*")
    assert worker.err.startswith(f"queuekit: {start}")
    assert end in worker.err
    assert len(worker.err.splitlines()) == 1


@pytest.mark.parametrize("options", [("--processes", "-1"), ("--drain", "30"), ("--nothing",), ("--queue", "nix")])
def test_a_wrong_option_is_a_usage_error(shop: Path, queuekit: Start, options: tuple[str, ...]) -> None:
    worker = queuekit("worker", "shop:app", *options)
    assert worker.wait() == qk.ExitCode.USAGE
    assert len(worker.err.splitlines()) == 1


def test_a_wrong_url_in_the_app_is_one_line_without_its_secret(shop: Path, queuekit: Start, canary: str) -> None:
    (shop / "wrong.py").write_text(f'import queuekit as qk\napp = qk.App("redis://ada:{canary}@h:0/0")\n')
    (shop / "later.py").write_text(SHOP.replace("sqlite:///jobs.db", f"sqlite:///jobs.db?password={canary}"))
    for target in ("wrong:app", "later:app"):
        worker = queuekit("worker", target)
        assert worker.wait() == qk.ExitCode.USAGE
        assert canary not in worker.out + worker.err
        assert len(worker.err.splitlines()) == 1


def test_what_a_worker_logs_cannot_steer_the_terminal(shop: Path, queuekit: Start) -> None:
    (shop / "hostile.py").write_text(
        "import queuekit as qk\n"
        "app = qk.App('sqlite:///jobs.db')\n"
        "@app.handler('orders')\n"
        "def order(number: int) -> None:\n"
        "    raise qk.DeadLetter('\\x1b[31mred\\nforged line')\n"
    )
    send(shop, 1)
    worker = queuekit("worker", "hostile:app")
    worker.wait_for("delivery.dead")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "\\x1b[31mred\\x0aforged line" in worker.err
    assert "\x1b" not in worker.err
