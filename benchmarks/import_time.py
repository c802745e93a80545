# SPDX-License-Identifier: Apache-2.0
"""`import queuekit` against importing what it is made of, each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

from _bench import Contest, Part, arguments, compare

_TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def importing(statement: str) -> Part:
    def run(count: int) -> float:
        command = [sys.executable, "-c", _TIMED.format(statement)]
        return sum(
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(count)
        )

    return run


def main() -> None:
    options = arguments("import queuekit against its parts", messages=1, rounds=15).parse_args()
    parts = importing("from pydantic import TypeAdapter; import tenacity, asyncio")
    # At most 1.3 times as long is a ratio of at least 0.77.
    compare(
        [
            Contest("import queuekit", parts, importing("import queuekit"), target=round(1 / 1.3, 2)),
            Contest(
                "import queuekit, and use its main names",
                parts,
                importing("from queuekit import App, Consumer, Message, Producer, Retry"),
            ),
        ],
        options,
    )


if __name__ == "__main__":
    main()
