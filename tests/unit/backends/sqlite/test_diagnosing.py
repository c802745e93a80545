# SPDX-License-Identifier: Apache-2.0
"""What kind of disk a file is on, and what that means for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from queuekit.backends.sqlite._diagnosing import diagnose, kind_of_disk

TABLE = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:22 / /srv rw - nfs4 host:/srv rw
31 27 0:22 / /srv/local rw - xfs /dev/vdb rw
32 27 0:22 / /with\\040space rw - tmpfs tmpfs rw
33 31 0:22 / /srv/local rw - btrfs /dev/vdc rw

half a line
"""
ON_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "f"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/jobs.db", "ext4"),
        ("/srv/jobs.db", "nfs4"),
        ("/srvless/jobs.db", "ext4"),
        ("/srv/local/jobs.db", "btrfs"),
        ("/with space/a/jobs.db", "tmpfs"),
    ],
)
def test_a_path_is_on_the_nearest_and_latest_mount(path: str, kind: str) -> None:
    assert kind_of_disk(Path(path), TABLE) == kind


def found(
    folder: Path, kind: str, environment: Mapping[str, str] | None = None, durability: str = "full"
) -> list[tuple[str, str]]:
    table = folder / "mountinfo"
    table.write_text(f"27 1 254:0 / / rw - {kind} /dev/vda rw\n")
    return [(each.severity, each.code) for each in diagnose(folder / "jobs.db", durability, environment or {}, table)]


def test_a_local_disk_is_well(tmp_path: Path) -> None:
    assert found(tmp_path, "ext4") == []


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.gcsfuse", "ceph"])
def test_a_disk_of_another_host_is_a_loss(tmp_path: Path, kind: str) -> None:
    assert found(tmp_path, kind) == [("loss", "disk_remote")]


def test_a_disk_in_memory_is_a_loss(tmp_path: Path) -> None:
    assert found(tmp_path, "tmpfs") == [("loss", "disk_in_memory")]


def test_a_disk_that_ends_with_its_container_is_a_loss_where_that_is_sure(tmp_path: Path) -> None:
    assert found(tmp_path, "overlay") == [("warning", "disk_short_lived")]
    assert found(tmp_path, "overlay", ON_LAMBDA) == [("loss", "disk_short_lived")]
    assert found(tmp_path, "ext4", ON_LAMBDA) == [("warning", "disk_short_lived")], "it may be a volume that lasts"


def test_less_durability_is_a_loss_wherever_the_file_is(tmp_path: Path) -> None:
    assert found(tmp_path, "ext4", durability="normal") == [("loss", "durability_normal")]


def test_a_system_that_does_not_tell_is_told_of(tmp_path: Path) -> None:
    (finding,) = diagnose(tmp_path / "jobs.db", "full", {}, tmp_path / "not there")
    assert (finding.severity, finding.code) == ("note", "disk_unknown")
