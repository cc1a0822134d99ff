"""The hub: the rooms of this process, what it is told of their streams, and what it asks itself."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, NoReturn

import structlog
from sqlalchemy import select

from ferrule.db.database import Database
from ferrule.errors import Error
from ferrule.streams.channels import Channels
from ferrule.streams.events import Event, Page
from ferrule.streams.log import Appended, read_page
from ferrule.streams.models import Stream
from ferrule.streams.node import Node
from ferrule.streams.position import Position
from ferrule.streams.room import Reader, Room, Sink
from ferrule.streams.wire import FrameWire

LOOK = 0.4
"""Seconds between two looks at the streams that must be watched, whatever the bus does."""
COMPARE = 5.0
"""Seconds between two looks at all streams that are read, while the bus carries."""
NEW = 3.0
"""Seconds from its start, and from when it hears again, in which a hub looks at all streams."""
AT_ONCE = 500
"""Streams whose heads are asked for at once."""
DEADLINE = 5.0
"""Seconds that the database gets for an answer; a connection may be dead without a word."""
READING = 4
"""Pages that are read at the same time: readers leave the database to requests."""
EVENTS = "events"
MAX_HINT = 65_536
"""Bytes of events that a hint carries."""

log = structlog.get_logger("ferrule.streams")


class Hub:
    """Brings the events of streams to their readers in this process.

    It learns of events by their own commits here, by the bus, and by looking into the database: now
    and then while the bus carries, more often while it does not.
    """

    def __init__(
        self,
        database: Database,
        channels: Channels,
        node: Node,
        *,
        noted: Callable[[Sequence[Appended]], None],
    ) -> None:
        self.channels = channels
        self._noted = noted
        self.node = node
        self._database = database
        self._rooms: dict[str, Room] = {}
        self._watched: dict[str, None] = {}
        self._reading = asyncio.Semaphore(READING)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failing = False
        self._look = asyncio.Event()
        self._attentive_until = 0.0
        node.on(EVENTS, self._hinted)
        node.on_heard(self.look)

    def join(
        self, stream: str, sink: Sink, since: Position | None, wire: FrameWire | None = None
    ) -> Reader:
        """Read a stream from a place on; None: from its top. `await reader.stop()` at the end.

        Live events go straight into the wire, if there is one, while it flows.
        """
        room = self._rooms.get(stream)
        if room is None:
            name = self.channels.name(stream)
            room = Room(stream, name, self.read, spawn=self.spawn, emptied=self._emptied)
            self._rooms[stream] = room
        reader = Reader(room, sink, since, wire)
        reader.start()
        return reader

    def watch(self, stream: str) -> None:
        """Look at this stream at each look, though the bus carries."""
        self._watched[stream] = None

    async def read(self, stream: str, after: int, limit: int) -> Page:
        """A page of a stream's log, for readers, who ask again if it does not come."""
        # What must be known within a second does not wait behind those who catch up.
        turn = nullcontext() if stream in self._watched else self._reading
        async with turn, asyncio.timeout(DEADLINE):
            return await self.page(stream, after, limit)

    async def page(self, stream: str, after: int, limit: int) -> Page:
        """The same for a request, which waits and fails as every other one that reads."""
        async with self._database.read() as session:
            return await read_page(session, stream, after, limit)

    def committed(self, appended: Sequence[Appended]) -> None:
        """Hand over what was committed here, and tell the other nodes."""
        for each in appended:
            self._offer(each.stream, each.epoch, each.events)
            if self.node.heard:
                self.node.tell(EVENTS, _hint(each))
        self._noted(appended)

    def look(self) -> None:
        """Look at all streams now, and for a while: others may not know yet that this one hears."""
        self._attentive_until = asyncio.get_running_loop().time() + NEW
        self._look.set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task that ends with the hub at the latest."""
        task = asyncio.create_task(work, name=f"ferrule-streams-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look at the database until the block ends."""
        self.spawn(self._watch_all(), "watching")
        self.spawn(self._compare_all(), "comparing")
        try:
            yield
        finally:
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)

    def _offer(self, stream: str, epoch: str, events: Sequence[Event]) -> None:
        room = self._rooms.get(stream)
        if room is not None:
            room.offer(epoch, events)

    def _hinted(self, node: str, body: bytes) -> None:
        head, *texts = body.split(b"\n")
        stream, epoch, top = json.loads(head)
        room = self._rooms.get(stream)
        if room is None:
            return
        room.offer(epoch, [Event(n, text) for n, text in enumerate(texts, top - len(texts) + 1)])
        room.told(epoch, top)

    def _emptied(self, room: Room) -> None:
        if self._rooms.get(room.stream) is room:
            del self._rooms[room.stream]

    async def _watch_all(self) -> NoReturn:
        """What must be known within a second does not wait for the rest."""
        while True:
            await asyncio.sleep(LOOK)
            await self._compare(list(self._watched))

    async def _compare_all(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        compared = loop.time()
        self._attentive_until = compared + NEW
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    await self._look.wait()
            except TimeoutError:
                pass
            due = self._look.is_set() or self.node.deaf or loop.time() - compared >= COMPARE
            if due or loop.time() < self._attentive_until:
                self._look.clear()
                compared = loop.time()
                await self._compare(list(self._rooms))

    async def _compare(self, streams: Sequence[str]) -> None:
        try:
            for first in range(0, len(streams), AT_ONCE):
                await self._compare_some(streams[first : first + AT_ONCE])
        except (Error, OSError) as error:
            if not self._failing:
                log.warning("streams wait for the database", reason=type(error).__name__)
            self._failing = True
        except Exception as error:
            log.error("comparing streams failed", exc_info=error)
        else:
            self._failing = False

    async def _compare_some(self, streams: Iterable[str]) -> None:
        rooms = [room for name in streams if (room := self._rooms.get(name)) and room.live]
        if not rooms:
            return
        stood = [room.place for room in rooms]
        names = [room.stream for room in rooms]
        heads = select(Stream.name, Stream.epoch, Stream.top).where(Stream.name.in_(names))
        async with asyncio.timeout(DEADLINE), self._database.read() as session:
            found = {row.name: (row.epoch, row.top) for row in await session.execute(heads)}
        for room, place in zip(rooms, stood, strict=True):
            room.told(*found.get(room.stream, (None, 0)), place)


def _hint(appended: Appended) -> bytes:
    """What other nodes are told: the events themselves, unless they are so large or many."""
    head = json.dumps([appended.stream, appended.epoch, appended.events[-1].offset]).encode()
    texts = [event.message.text for event in appended.events]
    if sum(map(len, texts)) > MAX_HINT:
        texts = []
    return b"\n".join((head, *texts))
