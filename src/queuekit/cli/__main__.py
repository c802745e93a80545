# SPDX-License-Identifier: Apache-2.0
"""``python -m queuekit.cli``: the command line where no script is installed."""

from queuekit.cli import main

main()
