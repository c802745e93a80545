# SPDX-License-Identifier: Apache-2.0
"""What a producer and a consumer have in common: one open queue, and the ways to leave it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import NoReturn, Self

from queuekit._portable.link import CheckReport, Link


class Opened(ABC):
    """One open queue that is checked, entered and closed, in both faces.

    No seam, but code that its two subclasses share: each sets ``_link``, and says what `close` and
    `_ready` do.
    """

    _link: Link

    @property
    def queue(self) -> str:
        """The queue's URL, redacted."""
        return self._link.shown

    def check(self) -> CheckReport:
        """Ask the service whether the queue can be reached, does what was required, and is not refused by ``strict``.

        Whatever is wrong is in the report; `CheckReport.raise_for_problems` raises it.

        Raises:
            ClosedError: It was closed.
        """
        self._ready("check()", "acheck()", vet=False)
        return self._link.check()

    async def acheck(self) -> CheckReport:
        """As `check`, suspending."""
        return await asyncio.get_running_loop().run_in_executor(None, self.check)

    @abstractmethod
    def close(self) -> None:
        """Finish what was begun, and give everything back. Idempotent."""

    async def aclose(self) -> None:
        """As `close`, suspending."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __enter__(self) -> Self:
        try:
            self._ready()
        except BaseException:
            self.close()  # what raises here is left by no __exit__
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if self._link.unvetted:
            try:
                await self._aready()
            except BaseException:
                await self.aclose()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._link.shown!r})"

    def __reduce__(self) -> NoReturn:
        msg = f"a {type(self).__name__} cannot be pickled; open one by its URL in the other process"
        raise TypeError(msg)

    async def _aready(self) -> None:
        """As `_ready`, on a thread where the service is to be asked."""
        if self._link.unvetted:
            await asyncio.get_running_loop().run_in_executor(None, self._ready)
        else:
            self._ready()

    @abstractmethod
    def _ready(self, blocking: str = "", twin: str = "", *, vet: bool = True) -> None:
        """Refuse what is closed, open afresh after a fork, and probe once where something is demanded of the queue.

        Args:
            blocking: The blocking call that is being made, if it is one.
            twin: What to use instead inside an event loop.
            vet: Whether what is demanded is held against the queue.
        """
