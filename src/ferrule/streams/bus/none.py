"""No bus: there is no way between the processes, and none is feigned."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger("ferrule.streams")


class NoBus:
    """Carries nothing, so that its node is deaf for good: readers are served by polling."""

    kind = "none"

    def publish(self, message: bytes) -> None:
        """Drop it."""

    @asynccontextmanager
    async def running(self, receive: Callable[[bytes], None]) -> AsyncGenerator[None]:
        log.warning("no bus: notifications do not pass a pooler; set FERRULE_REDIS_URL")
        yield
