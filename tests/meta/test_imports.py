# SPDX-License-Identifier: Apache-2.0
"""What an import brings in, and which floor may import which."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = [
    "boto3",
    "botocore",
    "google",
    "grpc",
    "redis",
    "typer",
    "click",
    "rich",
    "pytest",
    "hypothesis",
    "sqlite3",
    "jwt",
]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["queuekit", "queuekit.backend", "queuekit.backends.memory", "queuekit.backends.sqs", "queuekit.push.aws_lambda"],
)
def test_importing_brings_no_sdk(module: str) -> None:
    assert python(f"import sys, {module}; print([each for each in {HEAVY} if each in sys.modules])") == "[]"


def test_testing_can_be_imported_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import queuekit.testing; queuekit.testing.reset_memory()"
    assert python(code) == ""


def test_the_floors_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
