# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark: ``python -m benchmarks``. Arguments go to each of them."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "memory_throughput.py",
    "sqlite_throughput.py",
    "sqlite_contention.py",
    "redis_throughput.py",
    "sqs_throughput.py",
    "latency.py",
    "import_time.py",
)

for script in SCRIPTS:
    subprocess.run([sys.executable, Path(__file__).with_name(script), *sys.argv[1:]], check=True)
