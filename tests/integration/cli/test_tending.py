# SPDX-License-Identifier: Apache-2.0
"""peek, purge and dead purge: what they show, what they remove, and that nothing goes unasked."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import queuekit as qk
from queuekit.cli import reload

from .conftest import EVIL, QUEUEKIT, Run, Start, kill_message, receive


def send(url: str, *bodies: bytes, **options: Any) -> list[str]:
    with qk.Producer(url) as producer:
        return [producer.send(body, **options).message_id for body in bodies]


def test_peek_shows_what_waits_and_leaves_it_alone(run_here: Run, url: str) -> None:
    first, second = send(url, b"one", b"two", type="order", ordering_key="k", priority=3)
    (other,) = send(url, b"\xff", type="other", attributes={"color": "red"})
    result = run_here("peek", url, "--json")
    assert result.code == 0
    assert [each["message_id"] for each in result.json] == [first, second, other]
    assert result.json[0] == {
        **result.json[0],
        "state": "ready",
        "attempt": 0,
        "type": "order",
        "ordering_key": "k",
        "priority": 3,
        "size": 3,
        "body": "one",
        "body_encoding": "utf-8",
        "attributes": {},
    }
    assert result.json[1]["state"] == "delayed", "its key's head comes first"
    assert result.json[2] == {**result.json[2], "body": "/w==", "body_encoding": "base64"}
    assert [each.attempt for each in receive(url, 3)] == [1, 1, 1]


def test_peek_chooses_limits_and_shows_bodies_as_text(run_here: Run, url: str) -> None:
    send(url, EVIL.encode(), b"x" * 500, type="order")
    send(url, b"not this")
    result = run_here("peek", url, "--type", "order", "--body")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "[bold]markup[/bold]" in result.out
    assert "x" * 60 + "…" in result.out
    assert "not this" not in result.out
    assert "there are more; see them with --limit 2" in run_here("peek", url, "--limit", "1").err
    assert "has no such message" in run_here("peek", url, "--type", "none").err


def test_peek_shows_what_is_kept_of_done_messages(run_here: Run, url: str) -> None:
    kept = f"{url}&keep_done=1h"
    (first,) = send(kept, b"a")
    receive(kept, 1)
    send(kept, b"b")
    (shown,) = run_here("peek", kept, "--done", "--json").json
    assert (shown["message_id"], shown["state"]) == (first, "done")
    assert [each["body"] for each in run_here("peek", kept, "--json").json] == ["b"]
    assert "has no such message" in run_here("peek", f"{url}2", "--done").err


def test_purge_removes_nothing_unasked(run: Run, url: str) -> None:
    send(url, b"a", b"b")
    result = run("purge", url)
    assert (result.code, result.out) == (1, "")
    assert "remove 2 messages from" in result.err
    assert "--yes" in result.err
    dry = run("purge", url, "--dry-run", "--json")
    assert (dry.code, dry.json) == (0, [{"dry_run": True, "removed": 2}])
    done = run("purge", url, "--yes", "--json")
    assert (done.code, done.json) == (0, [{"dry_run": False, "removed": 2}])
    assert receive(url, 0) == []


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 0), (b"\n", 1), (b"no\n", 1)])
def test_purge_asks_on_a_terminal(url: str, tmp_path: Path, answer: bytes, left: int) -> None:
    send(url, b"a")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*QUEUEKIT, "purge", url], stdin=theirs, stderr=subprocess.PIPE, cwd=tmp_path)
    os.write(ours, answer)
    _, said = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert b"[y/N]" in said
    assert process.returncode == left
    receive(url, left)


def test_a_leased_message_is_not_purged(run_here: Run, url: str) -> None:
    send(url, b"a", b"b")
    with qk.Consumer(url, prefetch=0) as consumer:
        held = consumer.receive(timeout=10)
        assert held is not None
        assert run_here("purge", url, "--yes", "--json").json == [{"dry_run": False, "removed": 1}]
        held.ack()


def test_dead_letters_are_chosen_by_type_reason_error_and_age(run_here: Run, url: str) -> None:
    late = kill_message(url, "the bank is away")
    kill_message(url, "no address")
    assert [each["message_id"] for each in run_here("dead", "ls", url, "--reason", "BANK", "--json").json] == [late]
    assert len(run_here("dead", "ls", url, "--type", "order", "--json").json) == 2
    assert run_here("dead", "ls", url, "--type", "other", "--json").json == []
    assert run_here("dead", "ls", url, "--error", "Zero", "--json").json == []
    assert run_here("dead", "ls", url, "--older-than", "1h", "--json").json == []
    moved = run_here("dead", "redrive", url, "--reason", "bank", "--json").json[0]
    assert moved["moved"] == [late]


def test_dead_purge_removes_what_was_meant_for_good(run: Run, url: str) -> None:
    keep = kill_message(url, "keep this")
    gone = kill_message(url, "poison")
    unasked = run("dead", "purge", url, "--reason", "poison")
    assert unasked.code == 1
    assert "remove 1 from" in unasked.err
    dry = run("dead", "purge", url, "--reason", "poison", "--dry-run")
    assert (dry.code, dry.out.split()) == (0, [gone])
    done = run("dead", "purge", url, "--reason", "poison", "--yes", "--json")
    assert (done.code, done.json) == (0, [{"dry_run": False, "removed": [gone], "skipped": [], "missing": []}])
    assert [each["message_id"] for each in run("dead", "ls", url, "--json").json] == [keep]
    missing = run("dead", "purge", url, "nobody", "--yes", "--json")
    assert (missing.code, missing.json[0]["missing"]) == (1, ["nobody"])


def send_text(url: str, text: str) -> None:
    with qk.Producer(url, payload=str) as producer:
        producer.send(text)


def test_a_queue_is_created_when_asked_for(run_here: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/made.db?queue=orders"
    for _ in range(2):
        made = run_here("create", url, "--json")
        assert (made.code, made.json) == (0, [{"created": url}])
    assert (tmp_path / "made.db").exists()
    assert run_here("create", f"sqlite:///{tmp_path}/made.db").code == 2


def test_a_queue_and_a_subscription_are_deleted_when_asked_for(run_here: Run, url: str) -> None:
    audit = f"{url}&subscription=audit"
    with qk.Consumer(audit) as consumer:
        consumer.check()
    send(url, b"a")
    assert run_here("delete", audit).code == 1
    assert [each["body"] for each in run_here("peek", audit, "--json").json] == ["a"]
    gone = run_here("delete", audit, "--yes", "--json")
    assert (gone.code, gone.json) == (0, [{"deleted": audit}])
    assert run_here("delete", audit, "--yes").code == 1
    assert run_here("delete", url, "--yes").code == 0
    assert run_here("peek", url, "--json").json == []


@pytest.mark.parametrize(
    ("rate", "code"), [("1000/s", 0), ("1000", 0), ("5/m", 0), ("0", 2), ("1.5/s", 2), ("fast", 2)]
)
def test_a_redrive_keeps_to_a_rate(run_here: Run, url: str, rate: str, code: int) -> None:
    kill_message(url)
    result = run_here("dead", "redrive", url, "--rate", rate)
    assert result.code == code
    assert ("expected a whole number a second" in result.err) == bool(code)


APP = """
import queuekit as qk
app = qk.App("sqlite:///jobs.db")

@app.handler("orders")
def order(text: str) -> None:
    print("{word}", text, flush=True)
"""


def test_reload_starts_the_worker_anew_when_a_file_changes(start: Start, tmp_path: Path) -> None:
    shop, place = tmp_path / "shop.py", f"sqlite:///{tmp_path}/jobs.db?queue=orders"
    shop.write_text(APP.format(word="one"))
    worker = start(*QUEUEKIT, "worker", "shop:app", "--reload")
    worker.wait_for("worker.started on")
    send_text(place, "a")
    worker.wait_for("one a")
    shop.write_text(APP.format(word="two"))
    worker.wait_for("shop.py changed; starting the worker anew")
    worker.wait_for("worker.started on", count=2)
    send_text(place, "b")
    worker.wait_for("two b")
    shop.write_text("this is no Python")
    worker.wait_for("the worker ended with 2; waiting for a change")
    shop.write_text(APP.format(word="three"))
    worker.wait_for("worker.started on", count=3)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.err
    assert worker.err.count("worker.stopped on") == 3


def test_json_of_every_command_is_json(run_here: Run, url: str) -> None:
    kill_message(url)
    for command in (["peek"], ["purge", "--yes"], ["dead", "ls"], ["dead", "redrive"], ["dead", "purge"], ["info"]):
        result = run_here(*command, url, "--json")
        assert result.code == 0, result.err
        for line in result.out.splitlines():
            json.loads(line)


def test_a_request_to_stop_that_comes_while_a_child_is_started_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = reload._Supervisor([sys.executable, "-c", "import time; time.sleep(20)"], tmp_path)
    begin = subprocess.Popen

    def stop_and_begin(*arguments: Any, **options: Any) -> Any:
        supervisor.stop(signal.SIGTERM, None)
        return begin(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", stop_and_begin)
    assert supervisor.run() == -signal.SIGTERM


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(run_here: Run, url: str) -> None:
    send(url, b"x")
    assert run_here("pause", url, "--json").json == [{"queue": url, "paused": True, "changed": True}]
    assert "paused already" in run_here("pause", url).err
    assert "paused: nothing is handed out" in run_here("info", url).out
    with qk.Consumer(url) as consumer:
        assert consumer.receive(timeout=0) is None
    assert "goes on" in run_here("resume", url).err
    assert run_here("resume", url, "--json").json == [{"queue": url, "paused": False, "changed": False}]
    assert [each.body for each in receive(url, 1)] == [b"x"]
