# SPDX-License-Identifier: Apache-2.0
"""One piece of work in each form of handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import queuekit as qk

Run = Callable[[str, int | None], object]
"""What a handler does with a payload at an attempt."""


def sync(app: qk.App, queue: str, run: Run, **options: Any) -> Any:
    @app.handler(queue, **options)
    def handle(text: str) -> object:
        return run(text, qk.current().attempt)

    return handle


def on_loop(app: qk.App, queue: str, run: Run, **options: Any) -> Any:
    @app.handler(queue, **options)
    async def handle(text: str) -> object:
        await asyncio.sleep(0)
        return run(text, qk.current().attempt)

    return handle


def in_batches(app: qk.App, queue: str, run: Run, **options: Any) -> Any:
    @app.batch_handler(queue, max_size=4, **options)
    def handle(batch: qk.Batch[str]) -> None:
        for each in batch:
            with suppress(ValueError):
                if run(each.payload, each.attempt) is None:
                    continue
            each.retry()

    return handle


FORMS = [sync, on_loop, in_batches]
