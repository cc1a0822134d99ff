"""Time that jumps."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

MAX_TURNS = 2000
"""Turns of the loop in which no time passes."""


class Loop(asyncio.BaseEventLoop):
    """An event loop whose time stands still while something is to be done, and else jumps."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._selector = self
        self._turns = 0
        self.circled = False

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everybody waits for ever"
        self._turns = 0 if timeout else self._turns + 1
        if self._turns > MAX_TURNS:
            self.circled, timeout = True, 0.01
        self._now += timeout
        return []

    def _process_events(self, events: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def jumping(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the loop whose time jumps."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(test(*arguments, **named))

    return run
