# SPDX-License-Identifier: Apache-2.0
"""Cases that wait for a part of queuekit, or for a backend, that is not there yet; each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

_BATCH = "batch handlers"

WAITING: Mapping[str, str] = {
    "PRO-12": "a harness with the hook deny()",
    "DEL-13": "delays that queuekit bridges itself",
    "DEL-14": "delays that queuekit bridges itself",
    "DLQ-11": "a backend whose service dead-letters by itself",
    "BPF-11": _BATCH,
    "BPF-12": _BATCH,
    "BPF-13": _BATCH,
    "BPF-14": _BATCH,
    "BPF-15": _BATCH,
    "BPF-16": _BATCH,
    "BPF-17": _BATCH,
    "BPF-20": "the AWS Lambda door",
    "ENC-21": "the CloudEvents codec",
}
"""A case leaves this table in the change that brings its test; a test compares both with the promised IDs."""
