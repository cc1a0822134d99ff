"""A hint that there is work, to all workers; nothing depends on it but how soon it is seen."""

import asyncio

from ferrule.streams.node import Node

KIND = "jobs"
TOGETHER = 0.002
"""Seconds in which hints become one for the other processes."""


class Hint:
    """Wakes the worker of this process, and those of all others once it has a way to them."""

    def __init__(self) -> None:
        self._given = asyncio.Event()
        self._node: Node | None = None
        self._telling = False

    def connect(self, node: Node) -> None:
        """Reach the workers of other processes over the bus."""
        self._node = node
        node.on(KIND, lambda _, body: self._given.set())

    async def give(self) -> None:
        """To be registered with `session.after_commit`."""
        self._given.set()
        if self._node is not None and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TOGETHER, self._tell, self._node)

    async def wait(self, seconds: float) -> None:
        """Wait for a hint, but not longer than this."""
        try:
            async with asyncio.timeout(seconds):
                await self._given.wait()
        except TimeoutError:
            pass
        self._given.clear()

    def _tell(self, node: Node) -> None:
        self._telling = False
        node.tell(KIND, b"")
