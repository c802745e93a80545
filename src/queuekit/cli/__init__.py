# SPDX-License-Identifier: Apache-2.0
"""Floor 7: the command line, ``queuekit``; needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

_PACKAGES = frozenset({"typer", "click", "rich"})


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: Without the program's name; by default those of the process.

    Raises:
        SystemExit: Always. 0 all went well, 1 something failed, 2 the command or a URL is wrong; a worker
            also has 3 and 4, see `queuekit.ExitCode`.
        ModuleNotFoundError: A package that is not the command line's own is missing.
    """
    try:
        from queuekit.cli.commands import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PACKAGES:
            raise
        print(f"queuekit: the command line needs {missing}; pip install 'queuekit[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(code)
