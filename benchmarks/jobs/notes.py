"""When jobs began, in the process that runs them; each of them tells it by its number."""

import asyncio
import time
from collections.abc import Callable


class Notes:
    """The jobs' own notes; `told` hears of each at once."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.told: Callable[[int, float], None] | None = None
        self._wanted = 0
        self._all = asyncio.Event()

    def expect(self, number: int) -> None:
        """Forget what began, and wait for so many."""
        self.began.clear()
        self._wanted = number
        self._all.clear()

    def begun(self, number: int) -> None:
        at = time.monotonic()
        self.began.setdefault(number, at)
        if self.told is not None:
            self.told(number, at)
        if len(self.began) == self._wanted:
            self._all.set()

    async def all(self) -> None:
        """Return once all that were expected have begun."""
        await self._all.wait()


notes = Notes()
