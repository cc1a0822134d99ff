"""Whether the broker can be reached: said once when it is lost and once when it is back."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

import structlog

FIRST, LAST = 0.1, 0.5
"""Seconds until a lost connection is tried again, at first and at last."""

log = structlog.get_logger("ferrule.streams")


class Link:
    """The way to the broker, which may have several parts: a connection that reads, one that sends.

    It is away while one of them is; `reached` once one of them has been.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._since = 0.0
        self._delays: dict[str, float] = {}
        self._tried = asyncio.Event()
        self.reached = asyncio.Event()

    @property
    def away(self) -> bool:
        return bool(self._delays)

    def found(self, part: str) -> None:
        """The broker has answered."""
        self._tried.set()
        self.reached.set()
        if self._delays.pop(part, None) is not None and not self._delays:
            seconds = round(time.monotonic() - self._since, 1)
            log.info("the bus is back", kind=self._kind, seconds=seconds)

    async def lost(self, part: str, error: BaseException) -> None:
        """The connection has failed. Returns when the next one is due."""
        self._tried.set()
        if not self._delays:
            self._since = time.monotonic()
            reason = f"{type(error).__name__}: {error}"
            log.warning("the bus is away", kind=self._kind, reason=reason)
        delay = self._delays.get(part, FIRST)
        self._delays[part] = min(2 * delay, LAST)
        await asyncio.sleep(delay)

    async def tried(self, within: float) -> None:
        """Wait until one attempt has ended, well or not, but not longer than this."""
        try:
            async with asyncio.timeout(within):
                await self._tried.wait()
        except TimeoutError:
            pass


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    pending = set(tasks)
    while pending:
        # More than once: in Python 3.11 wait_for, which drivers use, may swallow it.
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
