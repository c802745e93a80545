# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.cli.logs import LineFormatter
from queuekit.cli.showing import clean, put, put_block, put_json, put_table, redact

OSC = "\x1b]0;owned\x07"
HOSTILE = f"\x1b[31mred {OSC} \x9b31m \u202eback \x7f \r\n [bold]x[/bold] :boom:"


def is_tame(text: str) -> bool:
    return all(unicodedata.category(each) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in text)


@given(st.text(st.characters()))
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    assert is_tame(clean(text))


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_what_is_hidden_is_written_out() -> None:
    assert clean("\x1b[31m \x9b \u202e \ud800 \U000e0001") == "\\x1b[31m \\x9b \\u202e \\ud800 \\U000e0001"


def test_lines_of_data_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    put(HOSTILE)
    put_block("body", HOSTILE)
    put_table(("id",), [(HOSTILE,)])
    out = capsys.readouterr().out
    assert all(is_tame(line) for line in out.split("\n"))
    assert out.count("[bold]x[/bold] :boom:") == 3  # markup and emoji are literal


def test_json_is_ascii_without_controls_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    put_json({"text": HOSTILE})
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.removesuffix("\n").isprintable()
    assert json.loads(out) == {"text": HOSTILE}


def test_a_block_indents_every_line_so_that_none_is_forged(capsys: pytest.CaptureFixture[str]) -> None:
    put_block("body", "one\nmessage_id: forged")
    assert capsys.readouterr().out == "body:\n    one\n    message_id: forged\n"


def test_a_long_cell_is_not_cut_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    put_table(("id", "reason"), [("a" * 200, "b" * 500)])
    assert "b" * 500 in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "unexpected (redis://ada:{}@h/1) See",
        "x redis://{}@h/1",
        "sqlite:///a?password={} and more",
        "HTTPS://a:{}@b@c/ d",
        "a://b?dead=redis%3A%2F%2Fu%3A{}%40h",
        "a://b?dead=redis://u:{}@h",
    ],
)
def test_no_url_in_a_text_keeps_its_secret(text: str, canary: str) -> None:
    assert canary not in redact(text.format(canary))


def test_a_url_without_a_secret_stays() -> None:
    assert redact("no such queue: sqlite:///jobs.db?queue=orders") == "no such queue: sqlite:///jobs.db?queue=orders"


def test_a_log_line_cannot_be_forged() -> None:
    record = logging.LogRecord("queuekit", logging.WARNING, "", 0, "reason %s", ("\x1b[31m\nforged",), None)
    text = LineFormatter().format(record)
    assert "WARNING reason \\x1b[31m\\x0aforged" in text
    assert "\n" not in text


def test_a_traceback_in_the_log_keeps_its_lines_and_nothing_else() -> None:
    try:
        raise ValueError("\x1b[31m")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), (type(error), error, error.__traceback__))
    text = LineFormatter().format(record)
    assert text.endswith("ValueError: \\x1b[31m")
    assert text.count("\n") >= 3
