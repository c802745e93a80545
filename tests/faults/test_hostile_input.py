# SPDX-License-Identifier: Apache-2.0
"""Bodies, names and values that mean harm: nothing of them is imported, carried out, or let out of its place."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

import queuekit as qk
from queuekit._engine.codec import codec_for
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.testing.contract.corpus import CONTROLS, LONE_SURROGATES
from queuekit.testing.faults import FaultyOpener, Script

from .places import Place
from .rows import Result, figure
from .workers import HERE
from .working import on_both

LEAST_LIMIT_S = 0.05


def fed(place: Place, folder: Path, what: str, count: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "hostile.py"), place.app_url, what, str(count)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


@on_both
@pytest.mark.slow
def test_S1_hostile_bodies(row: Result, place: Place, tmp_path: Path, backend: str) -> None:
    count = 200
    found = fed(place, tmp_path, "bodies", count)
    row.ran(bodies=count)
    row.found(events=len(found["events"]), dead=sum(found["reasons"].values()))
    assert found == {"events": {}, "reasons": {"undecodable": count}, "whole": True, "done": 2, "owned": False}


@on_both
@pytest.mark.slow
def test_S2_dotted_names_as_types(row: Result, place: Place, tmp_path: Path, backend: str) -> None:
    count = 500
    found = fed(place, tmp_path, "names", count)
    row.ran(names=count)
    row.found(events=len(found["events"]), dead=sum(found["reasons"].values()))
    assert found == {"events": {}, "reasons": {"no_handler": count}, "whole": True, "done": 2, "owned": False}


class Order(BaseModel):
    count: float


REFUSED = {
    "depth of 100,000": b"[" * 100_000 + b"]" * 100_000,
    "a number of 10 MB": b"1" * 10_000_000,
    "a lone surrogate": b'"\\ud800"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
}
TAKEN: dict[str, tuple[bytes, object]] = {
    "a key twice": (b'{"count": 1, "count": 2}', {"count": 2}),
    "NaN": (b"NaN", math.nan),
    "beyond a float": (b"1e400", math.inf),
}
"""As pydantic decides it: the last key wins, and a payload type says for itself what numbers it takes."""


def test_S3_json_that_is_refused(row: Result) -> None:
    row.case = "refused"
    for payload in (object, Order):
        codec = codec_for(Any if payload is object else payload)
        for what, body in REFUSED.items():
            began = time.monotonic()
            with pytest.raises(qk.DecodeError):
                codec.decode(body, None)
            row.took(slowest=time.monotonic() - began)
            assert time.monotonic() - began <= 5 * LEAST_LIMIT_S, what
    row.ran(bodies=2 * len(REFUSED))


def test_S3_json_that_is_taken(row: Result) -> None:
    row.case = "taken"
    codec: Any = codec_for(Any)
    for body, value in TAKEN.values():
        taken = codec.decode(body, None)
        assert taken == value or (taken != taken and value != value), "NaN is not itself"
    keys = figure(1_000_000)
    many = b"{" + b",".join(b'"k%d":1' % number for number in range(keys)) + b"}"
    assert len(codec.decode(many, None)) == keys
    row.ran(bodies=len(TAKEN) + 1, keys=keys)


@on_both
def test_S5_messages_beyond_the_limit(row: Result, place: Place, backend: str) -> None:
    """The body alone, and a body that fits with attributes that do not."""
    script, clock = Script(), SystemClock()
    opener = FaultyOpener(Opener(clock), script, max_message_bytes=10_000)
    with qk.Producer(place.url("jobs"), _opener=opener) as producer:
        for message in (qk.Message(b"x" * 10_001), qk.Message(b"x" * 9_990, attributes={"name": "v" * 100})):
            with pytest.raises(qk.MessageTooLargeError) as caught:
                producer.send(message)
            assert caught.value.size is not None
            assert caught.value.size > 10_000 == caught.value.limit
        report = producer.send_many([b"fits", b"x" * 10_001, b"fits too"])
        assert [isinstance(each, qk.Accepted) for each in report] == [True, False, True]
    sent = [entry for call in script.calls("send") for entry in call.batch]
    row.ran(refused=3, sent=len(sent))
    assert [each.body for each in sent] == [b"fits", b"fits too"], "no other reached the backend"


@on_both
def test_S23_control_characters_everywhere(row: Result, place: Place, backend: str) -> None:
    script = Script()
    opener = FaultyOpener(Opener(SystemClock()), script)
    refused = 0
    with qk.Producer(place.url("jobs"), _opener=opener) as producer:
        for bad in (*CONTROLS, *LONE_SURROGATES):
            text = f"a{bad}b"
            hostile: list[dict[str, Any]] = [
                {"attributes": {text: "x"}}, {"attributes": {"name": text}}, {"ordering_key": text},
                {"dedup_id": text}, {"message_id": text}, {"type": text},
            ]  # fmt: skip
            for options in hostile:
                with pytest.raises(qk.InvalidMessageError):
                    producer.send(b"x", **options)
                refused += 1
            with pytest.raises(qk.SetupError):
                qk.Producer(place.app_url, queue=text)
            refused += 1
        with pytest.raises(qk.SetupError):
            qk.Producer(place.app_url, queue="a b")
        with pytest.raises(qk.SetupError):
            qk.Producer(place.app_url, queue="x" * 256)
        with pytest.raises(qk.InvalidMessageError):
            producer.send(b"x", attributes={"a b": "x"})
    row.found(refused=refused + 3, sent=len(script.calls("send")))
    assert script.calls() == []


ODD = [
    "'",
    '"',
    ";--",
    "../",
    "*",
    ">",
    "{tag}",
    "%",
    "_",
    "\\",
    "?",
    "#",
    "&",
    "=",
    "\u2603",
    ".db",
    "$(x)",
    "`",
    "|",
    "~",
]


def odd_name(chance: random.Random) -> str:
    return "".join(chance.choice([*ODD, "q", "DROP TABLE message"[chance.randrange(4) :][:4]]) for _ in range(12))[
        :200
    ]


@on_both
@pytest.mark.slow
def test_S24_names_that_inject(row: Result, place: Place, tmp_path: Path, backend: str) -> None:
    """Each name is a queue of its own: one message in it, and none anywhere else."""
    count, chance = figure(10_000, 400), random.Random(24)
    names = list({odd_name(chance).replace(" ", "") for _ in range(count)})
    names = [name for name in names if not name.endswith(".dead")]
    row.case = "names of queues"
    row.ran(names=len(names))
    opener = Opener(SystemClock())
    app_url = place.app_url if backend == "memory" else f"{place.app_url}?durability=normal"
    wrong = 0
    with qk.Producer(app_url, queue="watched", _opener=opener) as watched:
        watched.send(b"watched")
        before = {each.name for each in tmp_path.iterdir()}
        for name in names:
            slot = quote(name, safe="")
            url = f"memory://{slot}" if backend == "memory" else f"{app_url}&queue={slot}"
            with qk.Producer(url, _opener=opener) as producer:
                producer.send(name.encode())
        for name in [*names, "watched"]:
            with qk.Consumer(app_url, queue=name, _opener=opener) as consumer:
                peek: Any = consumer._link.backend
                wrong += [each.body for each in peek.peek(limit=3)] != [name.encode()]
        after = {each.name for each in tmp_path.iterdir()}
    opener.close()
    row.found(wrong=wrong)
    assert wrong == 0
    assert after == before
