# SPDX-License-Identifier: Apache-2.0
"""A real job: hash every file below a folder, with any number of workers, and lose none if one is killed.

Run it with ``python examples/hash_files.py FOLDER``, which sends a message for each file and works them until
Ctrl-C. Start more workers beside it with ``queuekit worker examples.hash_files:app``, in the same folder. The
digests are appended to ``digests.txt``.
"""

import hashlib
import os
import sys
from datetime import timedelta
from pathlib import Path

import queuekit as qk

app = qk.App()


@app.handler("files", concurrency=4, lease=timedelta(seconds=10), timeout=timedelta(minutes=1))
def hash_file(path: Path) -> None:
    """Hash one file. A file that is gone needs no second try; any other failure is retried by policy."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise qk.DeadLetter("the file is gone") from error
    append(f"{digest}  {path}\n")


def append(line: str) -> None:
    """Add a line by a single write, so that lines of several workers never mix."""
    descriptor = os.open("digests.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def main(folder: Path) -> qk.ExitCode:
    """Send every file below a folder, then work until told to stop."""
    files = sorted(path.resolve() for path in folder.rglob("*") if path.is_file())
    hash_file.send_many(files).raise_for_failures()
    print(f"{len(files)} files sent", flush=True)
    with app:
        return app.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
