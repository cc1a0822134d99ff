"""What waits to be sent, in batches: within bounds, so that an outage of the broker is no leak."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

MAX_MESSAGE = 128 * 1024
MAX_WAITING = 10_000
MAX_BYTES = 8 * 1024 * 1024
BATCH = 32 * 1024
"""Bytes up to which messages travel together; a longer one travels alone."""
AT_ONCE = 256 * 1024
"""Bytes of batches that are sent at once, about."""

log = structlog.get_logger("ferrule.streams")


@dataclass(frozen=True)
class Batch:
    """Messages that travel together. `id` is the publisher and a number that grows by one."""

    id: str
    data: bytes


def carried(message: bytes) -> bool:
    """Whether a bus takes this; if not, that is logged."""
    try:
        if len(message) <= MAX_MESSAGE and b"\0" not in message:
            message.decode()
            return True
    except UnicodeDecodeError:
        pass
    log.error("not a message for the bus", bytes=len(message), start=repr(message[:40]))
    return False


def pack(messages: Sequence[bytes]) -> bytes:
    """The sizes of the messages in a line, and then the messages."""
    sizes = b",".join(b"%d" % len(message) for message in messages)
    return b"\n".join((sizes, b"".join(messages)))


def unpack(data: bytes) -> list[bytes]:
    """What was packed. Raises ValueError for what was not."""
    sizes, _, rest = data.partition(b"\n")
    messages: list[bytes] = []
    start = 0
    for size in map(int, sizes.split(b",")):
        messages.append(rest[start : start + size])
        start += size
    if start != len(rest):
        raise ValueError("cut short")
    return messages


class Outbox:
    """Messages in their order until they are known to be sent."""

    def __init__(self) -> None:
        self._publisher = secrets.token_hex(6)
        self._number = 0
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._taken: list[Batch] = []
        self._given = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, message: bytes) -> None:
        """Keep a message; the oldest is dropped where there are too many."""
        if not carried(message):
            return
        self._waiting.append(message)
        self._bytes += len(message)
        while len(self._waiting) > MAX_WAITING or self._bytes > MAX_BYTES:
            self._bytes -= len(self._waiting.popleft())
            self._dropped += 1
        self._empty.clear()
        self._given.set()

    def wake(self) -> None:
        """Have who waits for messages look at its connection."""
        self._given.set()

    async def next(self, within: float) -> list[Batch]:
        """What to send now: the same again until `sent`, nothing if nothing comes within this."""
        if not self._taken and not self._waiting:
            try:
                async with asyncio.timeout(within):
                    await self._given.wait()
            except TimeoutError:
                pass
        self._given.clear()
        if not self._taken:
            self._take()
        return self._taken

    def sent(self) -> None:
        """What `next` gave has arrived at the broker."""
        self._taken = []
        if not self._waiting:
            self._empty.set()
            if self._dropped:
                log.warning("hints were dropped", number=self._dropped)
            self._dropped = 0

    async def emptied(self, within: float) -> None:
        """Wait until all is sent, but not longer than this."""
        try:
            async with asyncio.timeout(within):
                await self._empty.wait()
        except TimeoutError:
            pass

    def _take(self) -> None:
        total = 0
        while self._waiting and total < AT_ONCE:
            messages = [self._waiting.popleft()]
            size = len(messages[0])
            while self._waiting and size + len(self._waiting[0]) <= BATCH:
                messages.append(self._waiting.popleft())
                size += len(messages[-1])
            self._number += 1
            self._taken.append(Batch(f"{self._publisher} {self._number}", pack(messages)))
            total += size
        self._bytes -= total
