# SPDX-License-Identifier: Apache-2.0
"""The example of two subscriptions, as a program of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .conftest import Service

EXAMPLE = Path(__file__).parents[3] / "examples" / "pubsub_fan_out.py"


def test_each_subscription_handles_the_order(service: Service) -> None:
    for each in ("billing", "shipping"):
        service.made(subscription=each, max_deliveries="50")
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), service.project],
        env=os.environ | {"PUBSUB_EMULATOR_HOST": service.server.address, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        lines = {process.stdout.readline() for _ in range(2)}
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert lines == {"order 1: billed tea\n", "order 1: shipped tea\n"}
    assert process.returncode == 0, errors
