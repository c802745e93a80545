# SPDX-License-Identifier: Apache-2.0
"""Cases that wait for a part of queuekit, or for a backend, that is not there yet; each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

WAITING: Mapping[str, str] = {}
"""A case leaves this table in the change that brings its test; a test compares both with the promised IDs."""
