# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit.backend import Action, LeaseLost, OutgoingMessage, Settlement, Unsupported
from queuekit.backends.redis._messages import PlainWriter, read_run, read_taken, split_header, to_us, write_any
from queuekit.backends.redis._scripts import ABSENT, PLACES, WORKED, keys_of
from queuekit.backends.redis._settling import Fresh, Plan

KEPT = ("0", "10000", "0")
TEXTS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
MESSAGES = st.builds(
    OutgoingMessage,
    message_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
    body=st.binary(max_size=20),
    attributes=TEXTS,
    metadata=TEXTS,
    delay_s=st.just(0.0),
    ordering_key=st.none(),
    dedup_id=st.none(),
    priority=st.just(0),
)


@given(st.lists(MESSAGES, max_size=6))
def test_what_is_written_is_read(batch: list[OutgoingMessage]) -> None:
    writer = PlainWriter()
    parts = [part for each in (batch[:2], batch[2:]) for part in writer.write(each)]
    pairs = [(str(header).encode(), bytes(body)) for header, body in zip(parts[::2], parts[1::2], strict=True)]  # type: ignore[arg-type]
    entries = [(b"1700000000123-%d" % index, pair) for index, pair in enumerate(pairs)]
    got = read_run(entries, "t1", 60.0)
    assert [each[1:5] for each in got] == [each[:4] for each in batch]
    assert {(each.attempt, each.enqueued_at, each.lease_until) for each in got} <= {(1, 1_700_000_000.123, 60.0)}
    assert [each.handle for each in got] == [("t1", entry_id) for entry_id, _ in entries]


@given(MESSAGES, st.none() | st.text(max_size=5), st.integers(0, 9))
def test_key_and_priority_are_read(message: OutgoingMessage, key: str | None, priority: int) -> None:
    header, body, *_ = write_any(message._replace(ordering_key=key, priority=priority))
    (got,) = read_taken([b"1-0", str(header).encode(), body, 3], "t1", 1.0)
    assert (got.ordering_key, got.priority, got.attempt) == (key, priority, 3)


@given(TEXTS, TEXTS)
def test_metadata_is_never_taken_for_attributes(attributes: dict[str, str], metadata: dict[str, str]) -> None:
    message = OutgoingMessage("id", b"", attributes, metadata)
    header, *_ = write_any(message)
    _, rest = split_header(b"1-0", str(header).encode())
    assert (dict(rest.attributes), dict(rest.metadata)) == (attributes, metadata)


def test_an_entry_of_another_program_has_its_own_id_as_the_message_id() -> None:
    entries = [(b"1-0", [b"field", b"value"]), (b"2-0", [b"mine\n", b"ours"]), (b"3-0", [b"field", b"value"])]
    assert [(each.message_id, each.body) for each in read_run(entries, "t", 1.0)] == [
        ("1-0", b"value"),
        ("mine", b"ours"),
        ("3-0", b"value"),
    ]


@given(st.floats(0, 1e9))
def test_a_length_is_never_made_shorter(seconds: float) -> None:
    assert seconds * 1e6 <= to_us(seconds) <= seconds * 1e6 + 1


@pytest.mark.parametrize("queue", ["orders", "a{b}c", "{", "}", "}{", "50%", "a.dead.b", "caf\u00e9"])
@pytest.mark.parametrize("subscription", ["", "one", "}:plain", "a/b"])
def test_the_keys_of_a_queue_and_of_its_dead_letters_are_in_one_slot(queue: str, subscription: str) -> None:
    places = [keys_of(queue), keys_of(queue + ".dead"), keys_of(queue, subscription)]
    tags = {key[key.index("{") + 1 : key.index("}")] for keys in places for key in keys.all}
    assert len(tags) == 1
    assert "" not in tags, "an empty one would not count"
    assert len({key for keys in places for key in keys.all}) == (3 if subscription else 2) * len(
        {*PLACES, "subs", ABSENT}
    )


def test_no_two_queues_share_a_key() -> None:
    names = ["a", "a{", "a}", "a%7B", "a%", "a:plain", "b", "a/c"]
    places = [(name, subscription) for name in names for subscription in ("", "c", "c/d", "c:", "c%2Fd", "c.dead")]
    places += [("a.dead", ""), ("a.dead", "c")]
    assert len({keys_of(*each).start for each in places}) == len(places)


def test_the_scripts_work_on_no_place_that_is_not_known() -> None:
    folder = resources.files("queuekit.backends.redis") / "lua"
    texts = [each.read_text("utf-8") for each in folder.iterdir() if each.name != "claim.lua"]
    used = {place for text in texts for place in re.findall(r"\b(?:q|root|dead|letters|source)\.([a-z]+)", text)}
    assert used - {"start", "is"} == {*PLACES, "subs"}
    assert PLACES[: len(WORKED)] == WORKED
    assert ABSENT not in {*PLACES, "subs"}


def test_no_script_trims_a_stream_that_has_messages() -> None:
    folder = resources.files("queuekit.backends.redis") / "lua"
    trims = [
        line.strip()
        for each in folder.iterdir()
        for line in each.read_text("utf-8").splitlines()
        if re.search("MAXLEN|MINID|XTRIM", line)
    ]
    assert trims
    assert all(re.match(r"call\('XADD', (q\.)?wake, 'MAXLEN', 1,", line) for line in trims)


def test_a_handle_that_is_not_ours_goes_nowhere() -> None:
    plan = Plan(
        [Settlement(each, Action.ACK) for each in ("x", 1, (1, 2), ("t", b"1-0", 3))],
        Fresh(),
        is_dead=False,
        kept=KEPT,
    )
    assert plan.is_empty
    assert plan.outcomes([], 0.0) == [LeaseLost()] * 4


def test_a_dead_letter_queue_has_none_of_its_own() -> None:
    letter = OutgoingMessage("id", b"")
    plan = Plan([Settlement(("t", b"1-0"), Action.DEAD, dead=letter)], Fresh(), is_dead=True, kept=KEPT)
    assert plan.is_empty
    assert isinstance(plan.outcomes([], 0.0)[0], Unsupported)


def test_a_message_is_fresh_once_and_together_with_others_only_if_all_are() -> None:
    fresh = Fresh()
    fresh.add("t1", {b"1-0", b"2-0", b"3-0", b"4-0"})
    assert fresh.take("t1", [b"1-0"])
    assert not fresh.take("t1", [b"1-0", b"2-0"]), "the first was settled before"
    assert not fresh.take("t1", [b"2-0"]), "what became of it then may be unknown"
    assert fresh.take("t1", [b"3-0", b"4-0"])
    assert not fresh.take("t1", [b"3-0"])
    assert not fresh.take("t2", [b"1-0"]), "not one of ours"


def test_runs_that_are_never_settled_are_forgotten() -> None:
    fresh = Fresh()
    for number in range(1002):
        fresh.add(f"t{number}", {b"1-0"})
    assert [fresh.take(f"t{number}", [b"1-0"]) for number in (0, 1, 2, 1001)] == [False, False, True, True]
