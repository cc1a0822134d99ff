"""The bus of an application that is one process."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from ferrule.streams.bus.outbox import carried


class MemoryBus:
    """Hands messages over in the next turn of the event loop."""

    kind = "memory"

    def __init__(self) -> None:
        self._receiving: list[Callable[[bytes], None]] = []

    def publish(self, message: bytes) -> None:
        if self._receiving and carried(message):
            asyncio.get_running_loop().call_soon(self._deliver, message)

    @property
    def shared(self) -> bool:
        """Whether there is more than one to hear what is published."""
        return len(self._receiving) > 1

    @asynccontextmanager
    async def running(self, receive: Callable[[bytes], None]) -> AsyncGenerator[None]:
        self._receiving.append(receive)
        try:
            yield
        finally:
            self._receiving.remove(receive)

    def _deliver(self, message: bytes) -> None:
        for receive in tuple(self._receiving):
            receive(message)
