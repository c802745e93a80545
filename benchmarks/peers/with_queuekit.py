# SPDX-License-Identifier: Apache-2.0
"""queuekit as it comes; only the concurrency of I/O-bound handlers is set, to that of the others."""

import os
from collections.abc import Sequence

from measuring import SCENARIO, URL, Payload, ahandled, handled, send_on_command

from queuekit import App

_AT_ONCE = 1000

app = App(URL)
_slots = {"concurrency": 100} if SCENARIO == "io" else {}

if os.environ.get("PEERS_FACE") == "async":

    @app.handler("bench", **_slots)
    async def handle(payload: Payload) -> None:
        await ahandled(payload)

else:

    @app.handler("bench", **_slots)
    def handle(payload: Payload) -> None:
        handled(payload)


def _many(payloads: Sequence[Payload]) -> None:
    for start in range(0, len(payloads), _AT_ONCE):
        handle.send_many(payloads[start : start + _AT_ONCE]).raise_for_failures()


if __name__ == "__main__":
    with app:
        send_on_command(_many, handle.send)
