# SPDX-License-Identifier: Apache-2.0
"""What a Cloud Tasks URL may say, and above all which targets it may name."""

import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest

from queuekit import InvalidURLError
from queuekit._values.clock import SystemClock
from queuekit._values.url import QueueURL
from queuekit._wiring.opening import Opener

HTTPS = "https://worker.example/tasks?a=1"


def opened(text: str = "cloudtasks://shop/europe-west1/orders", **options: str) -> Any:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    return Opener(SystemClock()).open(QueueURL.parse(f"{text}?{query}" if query else text))


def test_a_url_names_project_location_and_queue() -> None:
    assert opened()._name == "projects/shop/locations/europe-west1/queues/orders"
    assert opened("cloudtasks://shop/here/orders", target=HTTPS).capabilities.max_message_bytes == 1 << 20
    assert opened(max_size="100KiB").capabilities.max_message_bytes == 100 * 1024


@pytest.mark.parametrize(
    "text",
    [
        "cloudtasks://shop/orders",
        "cloudtasks://shop/a/b/orders",
        "cloudtasks://shop:443/here/orders",
        "cloudtasks://user@shop/here/orders",
        "cloudtasks://shop/he_re/orders",
        "cloudtasks://shop/here/or_ders",
        "cloudtasks://shop/here/" + "q" * 101,
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidURLError):
        opened(text)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "cloudtasks.example:443"},
        {"endpoint": "localhost"},
        {"endpoint": "http://localhost:8123"},
        {"endpoint": "10.0.0.1:8123"},
        {"audience": "x"},
        {"min_backoff": "2h"},
        {"dispatch_deadline": "31m"},
        {"dispatch_deadline": "14s"},
        {"max_size": "2MiB"},
        {"rate": "501"},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidURLError):
        opened(**options)


@pytest.mark.parametrize(
    "target",
    [
        HTTPS,
        "https://worker.example:8443",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/x",
        "https://a-b.c.example/",
    ],
)
def test_public_https_targets_are_taken(target: str) -> None:
    opened(target=target, service_account="caller@shop.iam.gserviceaccount.com", audience="us")


@pytest.mark.row("S22", backend="cloudtasks", case="targets of URLs")
@pytest.mark.parametrize(
    "target",
    [
        "http://worker.example/",
        "file:///etc/passwd",
        "gopher://worker.example/",
        "//worker.example/",
        "worker.example",
        "https:///x",
        "https://user:password@worker.example/",
        "https://worker.example@169.254.169.254/",
        "https://worker.example\\@169.254.169.254/",
        "https://169.254.169.254#@worker.example/",
        "https://worker.example/#part",
        "https://worker.example/ x",
        "https://worker.example:0/",
        "https://worker.example:99999/",
        "https://wörker.example/",
        "https://①②⑦.⓪.⓪.①/",
        "https://localhost/",
        "https://a.localhost/",
        "https://worker/",
        "https://worker.internal/",
        "https://metadata.google.internal/",
        "https://metadata.goog/",
        "https://instance-data.example/",
        "https://worker.example./",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b:1::a9fe:a9fe]/",
        "https://[2002:a9fe:a9fe::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25lo]/",
        "https://[::1/",
        "https://worker.example/" + "x" * 2083,
    ],
)
def test_other_targets_are_refused_when_the_queue_is_opened(target: str) -> None:
    with pytest.raises(InvalidURLError, match="target") as raised:
        opened(target=target)
    assert target not in str(raised.value)


def test_with_an_endpoint_on_this_host_local_targets_are_taken() -> None:
    for target in ("http://127.0.0.1:8080/tasks", "http://localhost/", "https://worker/"):
        opened(target=target, endpoint="localhost:8123")
    with pytest.raises(InvalidURLError):
        opened(target="file:///etc/passwd", endpoint="localhost:8123")


def test_opening_imports_no_client() -> None:
    code = (
        "import sys\nfrom queuekit._wiring.opening import Opener\nfrom queuekit._values.clock import SystemClock\n"
        "from queuekit._values.url import QueueURL\n"
        "Opener(SystemClock()).open(QueueURL.parse('cloudtasks://a/b/c'))\n"
        "print([each for each in ('grpc', 'google.cloud.tasks_v2', 'google.auth') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
