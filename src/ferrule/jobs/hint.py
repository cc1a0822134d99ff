"""A hint within one process that there is work; nothing depends on it but how soon it is seen."""

import asyncio


class Hint:
    """Wakes the worker of this process."""

    def __init__(self) -> None:
        self._given = asyncio.Event()

    async def give(self) -> None:
        """To be registered with `session.after_commit`."""
        self._given.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a hint, but not longer than this."""
        try:
            async with asyncio.timeout(seconds):
                await self._given.wait()
        except TimeoutError:
            pass
        self._given.clear()
