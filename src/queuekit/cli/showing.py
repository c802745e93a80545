# SPDX-License-Identifier: Apache-2.0
"""How the command line speaks: data to stdout, talk to stderr, and nothing raw that a message brought."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from queuekit._values.errors import InvalidURLError
from queuekit._values.url import QueueURL

if TYPE_CHECKING:
    from rich.console import Console

# Controls, formatting such as bidirectional overrides, surrogates, private and unassigned characters, separators.
_HIDDEN_KINDS = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_LOOKS_LIKE_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://\S*")
_UNFOLDED = 100_000


def clean(text: str) -> str:
    r"""The text with everything that could steer a terminal written out, such as ``\x1b``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(each) if unicodedata.category(each) in _HIDDEN_KINDS else each for each in text)


def redact(text: str) -> str:
    """The text with every credential taken out of every URL in it."""
    return _LOOKS_LIKE_URL.sub(_redacted, text)


def say(text: str) -> None:
    """One line of talk to stderr."""
    print(clean(text), file=sys.stderr, flush=True)


def confirmed(question: str) -> bool:
    """Ask on the terminal; without one nobody can be asked, and nothing is done."""
    if not sys.stdin.isatty():
        say(f"queuekit: {redact(question)} Say so with --yes.")
        return False
    print(f"{clean(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def put(text: str) -> None:
    """One line of data to stdout."""
    print(clean(text))


def put_block(title: str, text: str) -> None:
    """Text of many lines to stdout, indented so that none of them can pass for one of ours."""
    put(f"{title}:")
    for line in text.split("\n"):
        put(f"    {line}")


def put_json(value: Any) -> None:
    """One JSON document to stdout, on one line, in ASCII."""
    # JSON leaves DEL as it is.
    print(json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f"))


def put_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table to stdout; cells are literal text, folded where they are too long and never cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        # The first column is an id or a name, to be copied: it is never folded.
        table.add_column(Text(column, style="bold"), overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(highlight=False, emoji=False, markup=False, width=width).print(table)


def talk_console() -> Console:
    """A console on stderr, for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, markup=False)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _redacted(match: re.Match[str]) -> str:
    try:
        return str(QueueURL.parse(match[0]))
    except InvalidURLError:
        return f"{match[1]}://***"
