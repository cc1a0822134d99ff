"""An allowance: so many a second, and so many at once."""

import time


class Allowance:
    """Refills by `rate` a second, up to `burst` (a token bucket)."""

    __slots__ = ("_burst", "_left", "_rate", "_refilled_at")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left = float(burst)
        self._refilled_at = time.monotonic()

    def spend(self) -> bool:
        """Take one; whether there was one."""
        self._refill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def full(self) -> bool:
        """Whether it is as it was at first."""
        self._refill()
        return self._left >= self._burst

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
