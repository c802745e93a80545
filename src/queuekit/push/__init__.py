# SPDX-License-Identifier: Apache-2.0
"""Floor 5: front doors for handlers whose messages are pushed. An app opens them by name, see `App.asgi`."""

from __future__ import annotations

from queuekit.push._auth import OIDC, NoAuth

__all__ = ["OIDC", "NoAuth"]
