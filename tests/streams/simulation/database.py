"""The log in memory, as the database keeps it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ferrule.streams.events import Emitted, Event
from ferrule.streams.log import Appended

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Life:
    """A stream from its beginning until it is removed."""

    name: str
    epoch: str
    top: int = 0
    floor: int = 0
    kept: dict[int, Emitted] = field(default_factory=dict[int, Emitted])
    texts: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """All that it ever had, as readers get it."""
    floors: set[int] = field(default_factory=lambda: {0})
    ended: bool = False


class Row(NamedTuple):
    """What a page's statement answers."""

    epoch: str
    top: int
    floor: int
    offset: int | None = None
    type: str | None = None
    data: str | None = None
    by: None = None
    at: datetime | None = None


class Head(NamedTuple):
    name: str
    epoch: str
    top: int


class Log:
    """Streams in memory. Who appends holds the stream's row until the commit."""

    def __init__(self) -> None:
        self.streams: dict[str, Life] = {}
        self.lives: dict[tuple[str, str], Life] = {}
        self._rows: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def locked(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Hold the rows of streams, as a transaction does until its end."""
        rows = [self._rows.setdefault(name, asyncio.Lock()) for name in sorted(names)]
        for row in rows:
            await row.acquire()
        try:
            yield
        finally:
            for row in rows:
                row.release()

    def append(self, name: str, number: int) -> Appended:
        """Commit events, at once; whoever does it holds the row."""
        life = self.streams.get(name)
        if life is None:
            life = self.streams[name] = Life(name, f"e{len(self.lives)}")
            self.lives[name, life.epoch] = life
        events: list[Event] = []
        for offset in range(life.top + 1, life.top + number + 1):
            told = Emitted(name, "told", f'"{life.epoch}:{offset}"', None, START)
            text = told.text(name, offset)
            life.kept[offset], life.texts[offset] = told, text
            events.append(Event(offset, text))
        life.top += number
        return Appended(name, life.epoch, life.floor, events)

    def go_back(self, name: str, top: int) -> None:
        """Lose the last events of a stream, as a copy that takes over may not have them."""
        life = self.streams[name]
        for offset in range(top + 1, life.top + 1):
            del life.kept[offset], life.texts[offset]
        life.top = top

    def trim(self, name: str, floor: int) -> None:
        life = self.streams[name]
        for offset in range(life.floor + 1, floor + 1):
            del life.kept[offset]
        life.floor = floor
        life.floors.add(floor)

    def remove(self, name: str) -> None:
        self.streams.pop(name).ended = True

    def page(self, name: str, after: int, limit: int) -> list[Row]:
        life = self.streams.get(name)
        if life is None:
            return []
        head = (life.epoch, life.top, life.floor)
        first = max(after, life.floor) + 1
        offsets = range(first, min(life.top, first + limit - 1) + 1)
        rows = [(n, life.kept[n]) for n in offsets]
        return [Row(*head, n, e.type, e.data, e.by, e.at) for n, e in rows] or [Row(*head)]

    def heads(self) -> list[Head]:
        return [Head(life.name, life.epoch, life.top) for life in self.streams.values()]


class Session:
    """Reads the log. `way` is the way there, and the way back: it takes its time, or raises."""

    def __init__(self, log: Log, way: Callable[[], Awaitable[None]]) -> None:
        self._log = log
        self._way = way

    async def fetch_all(self, _: Any, *, stream: str, after: int, limit: int) -> list[Row]:
        return await self._answer(lambda: self._log.page(stream, after, limit))

    async def execute(self, _: Any) -> list[Head]:
        return await self._answer(self._log.heads)

    async def _answer(self, ask: Callable[[], list[Any]]) -> list[Any]:
        """What was committed at a moment between the question and the answer."""
        await self._way()
        found = ask()
        await self._way()
        return found


class Database:
    """What a hub reads from; `sessions` are counted."""

    def __init__(self, log: Log, way: Callable[[], Awaitable[None]]) -> None:
        self.sessions = 0
        self._session = Session(log, way)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        self.sessions += 1
        yield self._session
