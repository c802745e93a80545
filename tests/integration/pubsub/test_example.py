# SPDX-License-Identifier: Apache-2.0
"""The examples of Pub/Sub, as programs of their own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from .conftest import Service

EXAMPLES = Path(__file__).parents[3] / "examples"


def written_by(example: str, service: Service, lines: int) -> str:
    """The first lines that an example writes before it is told to stop; what two handlers write may stand in one."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / example), service.project],
        env=os.environ | {"PUBSUB_EMULATOR_HOST": service.server.address, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        text = "".join(process.stdout.readline() for _ in range(lines))
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    return text


def test_each_subscription_handles_the_order(service: Service) -> None:
    for each in ("billing", "shipping"):
        service.made(subscription=each, max_deliveries="50")
    text = written_by("pubsub_fan_out.py", service, lines=2)
    assert sorted(re.findall("order 1: [a-z]+ed tea", text)) == ["order 1: billed tea", "order 1: shipped tea"]


def test_what_was_not_sent_is_mended_before_its_key_goes_on(service: Service) -> None:
    service.made("accounts", ordering="true")
    text = written_by("pubsub_ordered.py", service, lines=6)
    assert text.startswith("not sent: [-30, -5]; waiting: ['ada']\n")
    assert re.findall(r"ada: ([+-]\d+)", text) == ["+100", "-30", "-5"]
    assert re.findall(r"bob: ([+-]\d+)", text) == ["+100", "-5"]
