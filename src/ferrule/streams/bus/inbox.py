"""What has arrived: each batch is opened once, though it may have been sent again."""

from collections.abc import Callable

from ferrule.streams.bus.outbox import unpack

PUBLISHERS = 1000
"""Publishers that are remembered; more are not at work at the same time."""


class Inbox:
    """Hands the messages of batches to `receive`."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._numbers: dict[str, int] = {}

    def take(self, id: str, data: bytes) -> None:
        """Open a batch. What is none, or was opened before, is left."""
        publisher, _, number = id.partition(" ")
        try:
            this, messages = int(number), unpack(data)
        except ValueError:
            return
        last = self._numbers.pop(publisher, 0)
        # At the end of the order, so that the one unheard for longest is forgotten.
        self._numbers[publisher] = max(this, last)
        if this <= last:
            return
        if len(self._numbers) > PUBLISHERS:
            del self._numbers[next(iter(self._numbers))]
        for message in messages:
            self._receive(message)
