# SPDX-License-Identifier: Apache-2.0
"""What of a file's settings, and of where it lies, can lose messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from queuekit._values.platform import short_lived_platform
from queuekit.backend import Finding

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_IN_THE_CONTAINER = frozenset({"overlay", "aufs"})
_REMOTE = re.compile(
    r"nfs4?|cifs|smb[0-9]*|smbfs|afs|ceph|lustre|(fuse\.)?(sshfs|s3fs|gcsfuse|glusterfs|ceph|rclone)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")
_NORMAL = Finding(
    severity="loss",
    code="durability_normal",
    text="durability is normal: what was committed last is not forced to the disk",
    remedy="leave out durability=normal",
    loses="the last commits, when the host loses its power",
)
_NO_FILE_SYSTEM = Finding(
    severity="note",
    code="disk_unknown",
    text="this system does not tell what kind of disk the file is on",
    remedy="make sure that it is a local disk that lasts",
)


def diagnose(path: Path, durability: str, environment: Mapping[str, str], mounts: Path = _MOUNTS) -> list[Finding]:
    """Everything about one file.

    Args:
        path: The file; it need not be there.
        durability: The option.
        environment: The process's environment variables.
        mounts: Where the system lists its file systems.
    """
    found = [_NORMAL] if durability == "normal" else []
    try:
        table = mounts.read_text("utf-8", "surrogateescape")
    except OSError:
        kind = None
    else:
        kind = kind_of_disk(path.resolve(), table)
    return [*found, *_of_disk(kind, short_lived_platform(environment))]


def kind_of_disk(path: Path, table: str) -> str | None:
    """The kind of file system that a path is on, by the table of ``/proc/self/mountinfo``; None if it has none."""
    best, kind = -1, None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        place = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two on one place, the later one covers the other.
        if path.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), after.split(" ")[0]
    return kind


def _of_disk(kind: str | None, platform: str) -> Iterator[Finding]:
    if kind is None:
        yield _NO_FILE_SYSTEM
    elif kind in _IN_MEMORY:
        yield Finding(
            severity="loss",
            code="disk_in_memory",
            text=f"the file is on a disk that is kept in memory ({kind})",
            remedy="put it on a disk that lasts",
            loses="everything, when the host or its container ends",
        )
    elif _REMOTE.fullmatch(kind):
        yield Finding(
            severity="loss",
            code="disk_remote",
            text=f"the file is on another host's disk ({kind}), where locks and the order of writes are not to be "
            "relied upon",
            remedy="put it on a local disk, or use a queue that is made for several hosts, such as redis",
            loses="messages, or the whole file, when several hosts write to it",
        )
    elif kind in _IN_THE_CONTAINER or platform:
        yield _of_a_container(kind, platform)


def _of_a_container(kind: str, platform: str) -> Finding:
    own = kind in _IN_THE_CONTAINER
    where = f"{'in the container itself' if own else 'on a disk'} ({kind}){f' on {platform}' if platform else ''}"
    # A volume that was mounted for it may well outlast the container; its own layer does not.
    return Finding(
        severity="loss" if own and platform else "warning",
        code="disk_short_lived",
        text=f"the file is {where}, " + ("which ends with it" if own else "where disks mostly do not last"),
        remedy="put it on a volume that lasts, or use the URL of a queue service",
        loses="everything, when the container ends" if own else "everything, if its disk ends with the container",
    )
