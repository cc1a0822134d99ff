"""This process among those of the application: what it tells them, and whether it hears them."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import structlog

from ferrule.observability.health import Degraded
from ferrule.streams.bus import Bus
from ferrule.streams.bus.memory import MemoryBus

CANARY = 0.25
"""Seconds between two messages to itself."""
DEAF = 0.75
"""Seconds without one of them after which it counts as deaf."""
GONE = 5.0
"""Seconds without a message of another node after which that one is gone."""
OWN, LAST = b"canary", b"bye"

log = structlog.get_logger("ferrule.streams")


class Node:
    """A process on the bus. `id` is made at random; nobody else has it.

    It sends itself a canary over the bus, all the time: while none comes back it is `deaf`, and
    does not hear others either, however well its connections look. At the start it is deaf until
    the first one is back. In memory nothing is lost, and nobody is ever deaf.
    """

    def __init__(self, bus: Bus) -> None:
        self.id = secrets.token_hex(6)
        self.bus = bus
        self._memory = cast(MemoryBus, bus) if bus.kind == "memory" else None
        self._since = time.monotonic()
        self._heard: float | None = None
        self._told_deaf = False
        self._nodes: dict[str, float] = {}
        self._handlers: dict[bytes, Callable[[str, bytes], None]] = {}
        self._on_heard: list[Callable[[], None]] = []
        self._on_gone: list[Callable[[str], None]] = []
        self._on_beat: list[Callable[[], None]] = []

    def on(self, kind: str, handle: Callable[[str, bytes], None]) -> None:
        """Have `handle(node id, body)` called with what other nodes tell of this kind, a word."""
        if kind.encode() in self._handlers or kind.encode() in (OWN, LAST):
            raise ValueError(f"The kind {kind!r} is taken.")
        self._handlers[kind.encode()] = handle

    def on_heard(self, call: Callable[[], None]) -> None:
        """Have this called when it hears for the first time, and when it does after deafness."""
        self._on_heard.append(call)

    def on_gone(self, call: Callable[[str], None]) -> None:
        """Have this called with the id of a node that is gone."""
        self._on_gone.append(call)

    def on_beat(self, call: Callable[[], None]) -> None:
        """Have this called before each canary; what it tells travels with that. Not in memory."""
        self._on_beat.append(call)

    def tell(self, kind: str, body: bytes) -> None:
        """Send this to the other nodes; see `Bus.publish` for what may become of it."""
        if self.heard:
            self._publish(kind.encode(), body)

    @property
    def heard(self) -> bool:
        """Whether there may be others who hear this one. Who has just come looks for itself."""
        if self._memory is not None:
            return self._memory.shared
        return bool(self._nodes) or self.deaf

    @property
    def deaf(self) -> bool:
        """Whether others may have said something that it has not heard."""
        return self._memory is None and (self._heard is None or self.deaf_for > DEAF)

    @property
    def deaf_for(self) -> float:
        """Seconds: all that was published before is heard. Also under 0.3 while all is well."""
        if self._memory is not None:
            return 0.0
        return time.monotonic() - (self._since if self._heard is None else self._heard)

    @property
    def nodes(self) -> Mapping[str, float]:
        """The other nodes, with the `time.monotonic()` at which each was last heard of.

        While this one is deaf they are taken to be where they were.
        """
        return self._nodes

    async def check(self) -> Mapping[str, str | int | float | bool]:
        """For the health routes. Degraded, not failing: all nodes would be taken away at once."""
        if self.deaf:
            raise Degraded({"kind": self.bus.kind, "deaf_for": round(self.deaf_for, 3)})
        return {"kind": self.bus.kind, "nodes": len(self._nodes) + 1}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Be on the bus; at the end the others are told that it is gone."""
        self._since, self._heard = time.monotonic(), None
        async with self.bus.running(self._receive):
            beating: list[asyncio.Task[NoReturn]] = []
            if self._memory is not None:
                self._call_all(self._on_heard)
            else:
                beating.append(asyncio.create_task(self._beat(), name="ferrule-node"))
            try:
                yield
            finally:
                for task in beating:
                    task.cancel()
                await asyncio.gather(*beating, return_exceptions=True)
                self._publish(LAST)

    async def _beat(self) -> NoReturn:
        while True:
            self._call_all(self._on_beat)
            self._publish(OWN, b"%.6f" % time.monotonic())
            self._watch()
            await asyncio.sleep(CANARY)

    def _watch(self) -> None:
        if not self.deaf:
            now = time.monotonic()
            for id in [id for id, heard in self._nodes.items() if now - heard > GONE]:
                self._gone(id)
        elif self.deaf_for > DEAF and not self._told_deaf:
            self._told_deaf = True
            log.warning("deaf: nothing comes back over the bus", kind=self.bus.kind)

    def _publish(self, kind: bytes, body: bytes = b"") -> None:
        self.bus.publish(b"%b %b\n%b" % (self.id.encode(), kind, body))

    def _receive(self, message: bytes) -> None:
        head, _, body = message.partition(b"\n")
        sender, _, kind = head.partition(b" ")
        id = sender.decode()
        if id == self.id:
            if kind == OWN:
                self._came_back(float(body))
            return
        self._nodes[id] = time.monotonic()
        if kind == LAST:
            self._gone(id)
        elif kind in self._handlers:
            self._call(self._handlers[kind], id, body)

    def _came_back(self, sent: float) -> None:
        # What counts is when it was sent: a node that is far behind does not hear what is said now.
        was_deaf = self.deaf
        self._heard = max(sent, self._heard or 0.0)
        if not was_deaf or self.deaf:
            return
        if self._told_deaf:
            log.info("heard again", kind=self.bus.kind)
        self._told_deaf = False
        # What the others sent meanwhile may be lost: they get the time to be heard of.
        self._nodes = dict.fromkeys(self._nodes, time.monotonic())
        self._call_all(self._on_heard)

    def _gone(self, id: str) -> None:
        del self._nodes[id]
        for call in self._on_gone:
            self._call(call, id)

    def _call_all(self, calls: list[Callable[[], None]]) -> None:
        for call in calls:
            self._call(call)

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            log.error("what was heard on the bus is not understood", exc_info=error)
