# SPDX-License-Identifier: Apache-2.0
"""send, dead and info: exit codes, JSON, secrets, and messages that would like to be more than text."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

import queuekit as qk
from queuekit._wiring.registry import known_schemes

from .conftest import EVIL, ODD, QUEUEKIT, Run, Start, kill_message, receive

# send


def test_a_message_from_the_command_line_is_text(run: Run, url: str) -> None:
    result = run(
        *("send", url, "grüße", "--type", "greeting", "--attribute", "a=1", "--attribute", "b=x=y"),
        *("--ordering-key", "k", "--priority", "3", "--delay", "1ms"),
    )
    (delivery,) = receive(url, 1, str)
    assert (result.code, result.out.strip()) == (0, delivery.message_id)
    assert delivery.payload == "grüße"
    assert delivery.content_type == "text/plain"
    assert (delivery.type, dict(delivery.attributes)) == ("greeting", {"a": "1", "b": "x=y"})
    assert (delivery.ordering_key, delivery.priority) == ("k", 3)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("bytes", "application/octet-stream"), ("text", "text/plain"), ("json", "application/json")],
)
def test_a_message_from_stdin_is_sent_as_it_stands(run: Run, url: str, kind: str, content_type: str) -> None:
    body = b' {"a": 1.0, "b": 10000000000000000000000}\n'
    assert run("send", url, "--as", kind, stdin=body).code == 0
    (delivery,) = receive(url, 1)
    assert (delivery.body, delivery.content_type) == (body, content_type)


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("--as", "json", "{"), b"", "not JSON"),
        (("--as", "json", '{"a": NaN}'), b"", "not JSON"),
        (("--priority", "10", "x"), b"", "priority"),
        (("--attribute", "qk-a=1", "x"), b"", "qk"),
        (("--attribute", "a=1\n2", "x"), b"", "a"),
        ((), b"\xff", "not UTF-8"),
    ],
)
def test_a_message_that_cannot_be_sent_is_refused_by_name(
    run_here: Run, url: str, arguments: tuple[str, ...], stdin: bytes, said: str
) -> None:
    result = run_here("send", url, *arguments, stdin=stdin)
    assert result.code in {1, 2}
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert receive(url, 0) == []


def test_a_duplicate_is_said_and_is_no_failure(run: Run, url: str) -> None:
    first, second = (run("send", url, "x", "--dedup-id", "d", "--json") for _ in range(2))
    assert (first.json[0]["outcome"], second.json[0]["outcome"]) == ("accepted", "duplicate")
    assert (first.code, second.code) == (0, 0)
    assert "nothing was added" in second.err
    receive(url, 1)


@pytest.mark.parametrize("by_stdin", [True, False])
def test_jsonl_sends_each_line_and_names_those_that_failed(
    run: Run, url: str, tmp_path: Path, *, by_stdin: bool
) -> None:
    data = b'{"n": 1}\r\n{"n": \n\n "\xc3\xbc" \n[1, 2]'
    (tmp_path / "in.jsonl").write_bytes(data)
    result = run("send", url, "--jsonl", "-" if by_stdin else "in.jsonl", "--json", stdin=data if by_stdin else b"")
    assert result.code == 1
    assert [(each["line"], each["outcome"]) for each in result.json] == [
        (1, "accepted"),
        (2, "rejected"),
        (3, "rejected"),
        (4, "accepted"),
        (5, "accepted"),
    ]
    assert [each["code"] for each in result.json if "code" in each] == ["encode", "encode"]
    assert [each for each in result.err.splitlines() if each.startswith("line ")] == [
        each for each in result.err.splitlines() if each.startswith(("line 2: encode: not JSON", "line 3: encode"))
    ]
    assert "3 of 5 messages sent" in result.err
    arrived = receive(url, 3)
    assert [each.body for each in arrived] == [b'{"n": 1}', b' "\xc3\xbc" ', b"[1, 2]"]
    assert {each.content_type for each in arrived} == {"application/json"}


def test_many_lines_arrive_in_order_for_a_typed_handler(run: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f"{number}\n" for number in range(1234)))
    result = run("send", url, "--jsonl", "in.jsonl")
    assert (result.code, result.out) == (0, "")
    assert "1234 of 1234 messages sent" in result.err
    assert [each.payload for each in receive(url, 1234, int)] == list(range(1234))


def test_a_queue_that_is_full_stops_the_file_and_says_where(run: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f"{number}\n" for number in range(1200)))
    result = run("send", f"{url}&max_messages=600", "--jsonl", "in.jsonl", "--timeout", "300ms")
    assert result.code == 1
    assert "500 of 1000 messages sent" in result.err
    assert "stopped after line 1000, later lines are not sent: queue_full" in result.err
    receive(url, 500)


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--jsonl", "f"),
        ("--jsonl", "absent.jsonl"),
        ("--jsonl", "f", "--dedup-id", "d"),
        ("--jsonl", "f", "--as", "bytes"),
        ("x", "--delay", "30"),
        ("x", "--delay", "-5s"),
        ("x", "--attribute", "a"),
        ("x", "--attribute", "a=1", "--attribute", "a=2"),
        ("x", "--as", "xml"),
        ("x", "--priority", "high"),
    ],
)
def test_wrong_arguments_are_a_usage_error_in_one_line(
    run_here: Run, url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "f").write_text("1\n")
    result = run_here("send", url, *arguments)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "jobs.db").exists()


# dead


def test_hostile_content_is_shown_as_text(run: Run, url: str) -> None:
    message_id = kill_message(url, EVIL, f"line\n{EVIL}\nmessage_id: forged".encode(), {"note": ODD})
    for arguments in (("ls", url), ("show", url, message_id)):
        result = run("dead", *arguments)
        assert result.code == 0
        assert "\\x1b[31mred\\x1b]0;owned\\x07 \\u202e [bold]markup[/bold]" in result.out
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(result.out + result.err)
        assert "\nmessage_id: forged" not in result.out


def test_dead_letters_in_json_carry_everything(run: Run, url: str) -> None:
    message_id = kill_message(url, EVIL, b"\xff\x00", {"note": ODD})
    listed = run("dead", "ls", url, "--json").json
    (shown,) = run("dead", "show", url, message_id, "--json").json
    assert [each["message_id"] for each in listed] == [message_id]
    assert listed[0].items() <= shown.items()
    assert (shown["reason"], shown["attempts"], shown["type"]) == (EVIL, 1, "order")
    assert (shown["body"], shown["body_encoding"], shown["attributes"]) == ("/wA=", "base64", {"note": ODD})


def test_more_dead_letters_than_the_limit_are_mentioned(run: Run, url: str) -> None:
    for _ in range(3):
        kill_message(url)
    result = run("dead", "ls", url, "--limit", "2", "--json")
    assert len(result.json) == 2
    assert "there are more" in result.err
    assert "there are more" not in run("dead", "ls", url, "--limit", "3").err


def test_a_dry_run_moves_nothing_and_a_redrive_moves_what_was_named(run: Run, url: str) -> None:
    ids = [kill_message(url) for _ in range(3)]
    dry = run("dead", "redrive", url, "--dry-run", "--json").json
    assert dry == [{"dry_run": True, "moved": ids, "skipped": [], "failed": [], "missing": []}]
    assert receive(url, 0) == []
    named = run("dead", "redrive", url, ids[1])
    assert (named.code, named.out.split()) == (0, [ids[1]])
    assert run("dead", "redrive", url, "--limit", "1", "--json").json[0]["moved"] == [ids[0]]
    assert {each.message_id for each in receive(url, 2)} == {ids[0], ids[1]}


def test_an_unknown_id_is_a_failure(run_here: Run, url: str) -> None:
    message_id = kill_message(url)
    shown, moved = run_here("dead", "show", url, "nix"), run_here("dead", "redrive", url, "nix", message_id, "--json")
    assert (shown.code, moved.code) == (1, 1)
    assert "no dead letter 'nix'" in shown.err
    assert (moved.json[0]["moved"], moved.json[0]["missing"]) == ([message_id], ["nix"])


# info


def test_info_tells_what_is_installed(run_here: Run) -> None:
    (told,) = run_here("info", "--json").json
    assert {"memory", "sqlite"} <= set(told["schemes"]) == set(known_schemes())
    assert told["version"]
    assert ", ".join(known_schemes()) in run_here("info").out


def test_info_tells_what_a_queue_can_do_and_holds(run_here: Run, url: str) -> None:
    kill_message(url)
    with qk.Producer(url) as producer:
        producer.send(b"1")
        producer.send(b"2", delay=timedelta(hours=1))
    (told,) = run_here("info", url, "--json").json
    assert (told["queue"], told["ok"], told["problems"]) == (url, True, [])
    assert told["stats"] == {"ready": 1, "delayed": 1, "leased": 0, "dead": 1, "done": 0}
    assert (told["capabilities"]["durability"], told["capabilities"]["ordering"]) == ("disk", "per_key")
    shown = run_here("info", url)
    assert shown.code == 0
    assert "check: ok" in shown.out


def test_info_and_doctor_tell_where_longer_delays_wait(run_here: Run, url: str) -> None:
    via = f"{url}-waiting"
    whole = f"{url}&delay_via={quote(via, safe='')}"
    (told,) = run_here("info", whole, "--json").json
    assert (told["delay_via"], told["ok"]) == (via, True)
    assert told["capabilities"]["via_delay_s"] > 0
    assert f"they wait in {via}" in run_here("info", whole).out
    weak = quote(f"{via}&durability=normal", safe="")
    assert "where longer delays wait" in run_here("doctor", f"{url}&delay_via={weak}").out


def test_info_on_a_queue_that_cannot_be_reached_fails_and_still_tells(run: Run, tmp_path: Path) -> None:
    result = run("info", f"sqlite:///{tmp_path}/absent/jobs.db?queue=orders", "--json")
    assert result.code == 1
    assert result.json[0]["ok"] is False
    assert len(result.json[0]["problems"]) == 1
    assert result.json[0]["stats"] is None
    assert result.json[0]["capabilities"]


# what holds for all

COMMANDS = [
    ("send", "URL", "x"),
    ("send", "URL", "--jsonl", "-"),
    ("dead", "ls", "URL"),
    ("dead", "show", "URL", "id"),
    ("dead", "redrive", "URL"),
    ("info", "URL"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])
def test_no_command_shows_the_secret_of_a_url_that_works(
    run: Run, vault: tuple[str, dict[str, str]], canary: str, command: tuple[str, ...], *, as_json: bool
) -> None:
    url, environment = vault
    arguments = [url if each == "URL" else each for each in command]
    result = run(*arguments, *(["--json"] if as_json else []), env=environment, stdin=b"1\n{\n")
    assert canary not in result.out + result.err
    assert "Traceback" not in result.err
    assert result.code == (1 if "--jsonl" in command or "show" in command else 0)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "wrong",
    [
        "rabbit://ada:{}@h:5672/0?queue=orders",
        "sqlite://ada:{}@/jobs.db?queue=orders",
        "sqlite:///jobs.db?queue=orders&password={}",
        "sqlite:///jobs.db?queue=orders#{}",
        "sqlite:///jobs.db",
        "{}",
        "",
    ],
)
def test_a_wrong_url_is_one_line_without_its_secret(
    run_here: Run, canary: str, wrong: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    result = run_here(*(wrong.format(canary) if each == "URL" else each for each in command), stdin=b"1\n")
    assert (result.code, result.out) == (2, "")
    assert canary not in result.err
    assert result.err.startswith("queuekit: ")
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # refused before any I/O


def test_a_url_in_the_wrong_place_is_not_quoted_with_its_secret(run_here: Run, url: str, canary: str) -> None:
    for arguments in (("info", url), ("nonsense",), ("send", url, "x", "--delay")):
        result = run_here(*arguments, f"redis://ada:{canary}@h/0")
        assert result.code == 2
        assert canary not in result.out + result.err


@pytest.mark.parametrize("count", [1, 100])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(url: str, tmp_path: Path, count: int) -> None:
    with qk.Producer(url) as producer:
        producer.send_many([b""] * count)
    with qk.Consumer(url) as consumer:
        for _ in range(count):
            delivery = consumer.receive(timeout=10)
            assert delivery is not None
            delivery.dead_letter("x" * 900)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        command = [*QUEUEKIT, "dead", "ls", url, "--json"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_needs_no_queue(run_here: Run) -> None:
    for command in ((), ("send",), ("worker",), ("dead",), ("dead", "ls"), ("info",), ("demo",)):
        result = run_here(*command, "--help")
        assert result.code == 0
        assert "Usage: queuekit" in result.out


def test_without_a_command_the_commands_are_listed(run_here: Run) -> None:
    assert run_here() == run_here("--help")
    incomplete = run_here("dead")
    assert (incomplete.code, incomplete.out) == (2, "")
    assert incomplete.err == "queuekit: Missing command. See queuekit --help.\n"


def test_without_its_packages_the_command_line_says_what_to_install(start: Start) -> None:
    for missing in ("typer", "rich.table"):
        code = f"import sys; sys.modules[{missing!r}] = None; from queuekit.cli import main; main(['info', 'memory://a'])"
        result = start(sys.executable, "-c", code)
        assert result.wait() == 2
        package = missing.partition(".")[0]
        assert result.err == f"queuekit: the command line needs {package}; pip install 'queuekit[cli]'\n"


def test_the_database_is_sound_after_it_all(run: Run, url: str, tmp_path: Path) -> None:
    run("send", url, "x")
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_ctrl_c_ends_a_command_without_a_traceback(url: str, queuekit: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    sending = queuekit("send", url, "--jsonl", "pipe", "--json")
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(b"1\n" * 500)
        pipe.flush()
        sending.wait_for("accepted", count=500)
        sending.signal(signal.SIGINT)
        assert sending.wait() == 130
    assert "Traceback" not in sending.err


# doctor


def test_the_doctor_says_what_can_be_lost_and_fails(run: Run) -> None:
    result = run("doctor", "memory://q", "--lease", "24h")
    assert result.code == 1
    assert "This can lose everything, when the process ends." in result.out
    assert "the lease is 86400 s" in result.out


def test_a_queue_that_is_well_is_told_in_json(run: Run, url: str) -> None:
    result = run("doctor", url, "--json", "--max-attempts", "5")
    (found,) = result.json
    lossless = not any(each["severity"] == "loss" for each in found["findings"])
    assert (result.code, found["ok"]) == (0 if lossless else 1, lossless)
    assert found["can_lose"].startswith("This can lose")
    assert found["queue"] == url


def test_a_worker_does_not_start_on_a_queue_that_strict_refuses(start: Start, tmp_path: Path) -> None:
    (tmp_path / "unsafe.py").write_text(
        "import queuekit as qk\napp = qk.App('sqlite:///jobs.db?durability=normal&strict=true')\n"
        "@app.handler('q')\ndef handle(body: bytes) -> None: ...\n"
    )
    worker = start(*QUEUEKIT, "worker", "unsafe:app", "--processes", "1")
    assert worker.wait() == 2
    (line,) = [each for each in worker.err.splitlines() if "strict=true" in each]
    assert "durability is normal" in line
    assert "leave out durability=normal" in line
    assert "Traceback" not in worker.err
