# SPDX-License-Identifier: Apache-2.0
"""A backend that others wrote: built, found by its entry point, and judged by its own test file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import queuekit

PACKAGE = Path(__file__).parents[2] / "examples" / "thirdparty-backend"
_BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
_USE = """
import queuekit as qk, sys
with qk.Producer(sys.argv[1], payload=str) as producer, qk.Consumer(sys.argv[1], payload=str) as consumer:
    producer.send("tea")
    delivery = consumer.receive(timeout=10)
    delivery.ack()
    print(delivery.payload, sorted(m for m in sys.modules if m.startswith("queuekit_")))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the package is installed beside this checkout; nothing is downloaded."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, str(wheels)],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    with zipfile.ZipFile(wheels / built.stdout.strip()) as wheel:
        wheel.extractall(site)
    source = Path(queuekit.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(site)])}


def test_its_scheme_is_found_by_the_entry_point(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", _USE, f"dir://{tmp_path}?queue=orders"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.strip() == "tea ['queuekit_directory']", ran.stderr


@pytest.mark.slow
def test_it_passes_the_contract(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_directory.py").write_bytes((PACKAGE / "tests" / "test_directory.py").read_bytes())
    plugin = ["-p", "queuekit.testing.plugin"] if not _plugin_is_installed() else []
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *plugin]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1200
    )
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"^(\d+) passed", ran.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 300
    skipped = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)", ran.stdout, re.MULTILINE)
    assert all(reason.startswith("the harness has no hook") for reason in skipped), skipped


def _plugin_is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(each.value == "queuekit.testing.plugin" for each in entry_points(group="pytest11"))
