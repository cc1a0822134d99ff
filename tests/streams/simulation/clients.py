"""Readers: their connections, what they get, and what they should get."""

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from ferrule.streams.events import Event
from ferrule.streams.position import Position
from ferrule.streams.room import Stopped
from ferrule.streams.wire import FrameWire, Message
from tests.streams.simulation.database import Life
from tests.streams.simulation.process import Process

if TYPE_CHECKING:
    from tests.streams.simulation.world import World

CAPACITY = 4
"""Messages that a connection takes while its client does not."""


class Sink:
    """A connection: what its client has not taken yet is lost with it.

    Some have a wire, for which this is the transport.
    """

    def __init__(self, *, wired: bool) -> None:
        self.messages: deque[tuple[Any, ...]] = deque()
        self.given = asyncio.Event()
        self.cut = False
        self.wire: FrameWire | None = None
        if wired:
            self.wire = FrameWire(cast(Any, None), cast(Any, self), 0.0)
            self.wire.flows()
        self._taken = asyncio.Event()

    @property
    def roomy(self) -> bool:
        return len(self.messages) < CAPACITY

    def write(self, frame: bytes) -> None:
        assert not self.cut, "written after the end"
        self._give("frame", frame)

    def deliver(self, event: Event, epoch: str) -> bool:
        if self.cut or not self.roomy:
            return False
        self._give("ev", event, epoch)
        return True

    def begun(self, epoch: str | None, top: int) -> None:
        self._give("begun", epoch, top)

    def live(self, epoch: str | None, offset: int) -> None:
        self._give("live", epoch, offset)

    def reset(self, epoch: str | None, offset: int) -> None:
        self._give("reset", epoch, offset)

    async def drained(self) -> None:
        while not self.roomy and not self.cut:
            self._taken.clear()
            await self._taken.wait()
        if self.cut:
            raise Stopped

    def broken(self) -> None:
        raise AssertionError("the reader failed")

    def taken(self) -> None:
        self._taken.set()
        if self.wire is not None and not self.wire.flowing and self.roomy and not self.cut:
            self.wire.flows()

    def end(self) -> None:
        self.cut = True
        if self.wire is not None:
            self.wire.lost()
        self._taken.set()
        self.given.set()

    def _give(self, *message: Any) -> None:
        self.messages.append(message)
        self.given.set()
        if self.wire is not None and not self.roomy:
            self.wire.stops()


class Client:
    """Reads a stream, and connects again at the last place; what it gets is judged at once."""

    def __init__(self, world: "World", stream: str, since: Position | None) -> None:
        self.stream = stream
        self.epoch = since.epoch if since else None
        self.offset = since.offset if since else None
        self.resets = 0
        self.stalled = False
        self.sink: Sink | None = None
        self._world = world
        # What nobody ever was told by a server may be anything.
        self._made_up = since is not None
        self._told = self.epoch
        self._is_live = False

    @property
    def since(self) -> Position | None:
        return None if self.offset is None else Position(self.offset, self.epoch)

    @property
    def complete(self) -> bool:
        life = self._world.log.streams.get(self.stream)
        place = (life.epoch, life.top) if life else (None, 0)
        connected = self.sink is not None and not self.sink.cut
        return connected and self._is_live and (self.epoch, self.offset) == place

    def __repr__(self) -> str:
        life = self._world.log.streams.get(self.stream)
        head = f"{life.epoch}:{life.top}" if life else "nothing"
        return f"at {self.since} of {self.stream}, which has {head}"

    async def run(self) -> None:
        while True:
            process = await self._world.any_process()
            self.sink = sink = Sink(wired=self._world.rng.random() < 0.5)
            self._told = self.epoch
            self._is_live = False
            reader = process.hub.join(self.stream, sink, self.since, sink.wire)
            try:
                await self._take(process, sink)
            finally:
                sink.end()
                await reader.stop()
                self.sink = None
            await self._world.pause(self._world.rng.choice([self._world.latency, 1.0]))

    async def _take(self, process: Process, sink: Sink) -> None:
        while not sink.cut and process.alive:
            await sink.given.wait()
            await self._world.pause(self._world.latency)
            while self.stalled and not sink.cut:
                await asyncio.sleep(0.05)
            if sink.cut:
                return
            sink.given.clear()
            # Not all at once: a cut may come between any two.
            for _ in range(self._world.rng.randint(1, CAPACITY)):
                if sink.messages:
                    kind, *values = sink.messages.popleft()
                    getattr(self, f"_{kind}")(*values)
            if sink.messages:
                sink.given.set()
            sink.taken()

    def _begun(self, epoch: str | None, top: int) -> None:
        self._told = self._told or epoch
        if self.offset is None:
            self.epoch, self.offset = epoch, top

    def _ev(self, event: Event, epoch: str) -> None:
        life = self._life(epoch)
        assert self._told in (None, epoch), f"{epoch}:{event.offset} after {self.since}, no reset"
        assert event.offset == cast(int, self.offset) + 1, f"{event.offset} after {self.since}"
        assert event.message.text == life.texts[event.offset]
        self._at(epoch, event.offset)

    def _frame(self, frame: bytes) -> None:
        text = frame[frame.index(b"{") :]
        assert frame == Message(text).frame
        event = json.loads(text)
        epoch, _, offset = event["data"].partition(":")
        assert event["offset"] == int(offset)
        self._ev(Event(int(offset), text), epoch)

    def _live(self, epoch: str | None, offset: int) -> None:
        assert self._told in (None, epoch)
        assert offset == self.offset, f"live at {offset} after {self.since}"
        self._at(epoch, offset)
        self._is_live = True

    def _reset(self, epoch: str | None, offset: int) -> None:
        why = f"a reset to {epoch}:{offset} after {self.since}"
        here = cast(int, self.offset)
        if self._told not in (None, epoch):
            before = self._world.log.lives.get((self.stream, cast(str, self._told)))
            assert before is None or before.ended, why
            assert offset in (self._life(epoch).floors if epoch else {0}), why
        elif offset > here:
            assert offset in self._life(epoch).floors, why
        else:
            # Else nobody is ahead of the log.
            assert self._made_up, why
            assert offset < here, why
        self._at(epoch, offset)
        self.resets += 1

    def _at(self, epoch: str | None, offset: int) -> None:
        self.epoch, self.offset = self._told, _ = epoch, offset
        self._made_up = False

    def _life(self, epoch: str | None) -> Life:
        return self._world.log.lives[self.stream, cast(str, epoch)]
