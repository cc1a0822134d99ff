"""Turns: who asks first is let in first, and nobody waits beyond a deadline."""

import asyncio
from collections import deque
from contextlib import suppress

from ferrule.errors import Unavailable

MAX_WAITING = 1000
"""Requests that may queue for a connection; one more is answered 503 at once."""


class Turns:
    """A semaphore with deadlines, in the order of asking.

    `asyncio.Semaphore` within `asyncio.timeout` would make a timer for each who waits; here one
    timer looks after all of them, because under load nearly every request waits.
    """

    def __init__(self, number: int, seconds: float) -> None:
        self._free = number
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def free(self) -> int:
        """Turns that nobody has."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not turn.done() for _, turn in self._waiting)

    async def take(self, seconds: float | None = None) -> None:
        """Wait for a turn; `Unavailable` past the deadline or behind too many."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("Too many requests are waiting. Try again shortly.")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._seconds if seconds is None else seconds)
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((deadline, turn))
        if self._timer is None or deadline < self._timer.when():
            self._look_at(deadline, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The turn came in the same moment: the next one gets it.
                self.give()
            else:
                with suppress(ValueError):
                    self._waiting.remove((deadline, turn))
            raise

    def give(self) -> None:
        """End a turn: the next one is let in."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _look_at(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._tell_late, loop)

    def _tell_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = [turn for deadline, turn in self._waiting if deadline <= now]
        self._waiting = deque(
            each for each in self._waiting if each[0] > now and not each[1].done()
        )
        for turn in late:
            if not turn.done():
                turn.set_exception(Unavailable("The database is busy. Try again shortly."))
        if self._waiting:
            self._look_at(min(deadline for deadline, _ in self._waiting), loop)
