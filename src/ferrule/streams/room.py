"""Where the readers of one stream meet in this process: those who are live, and those who join.

Whoever is live has been handed every event up to `top`, so that one comparison serves them all. A
reader who joins, or was too slow, reads the log by itself until it stands at `top`, too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from ferrule.errors import Error
from ferrule.streams.audience import Audience
from ferrule.streams.events import Event, Page
from ferrule.streams.position import Position
from ferrule.streams.wire import FrameWire

PAGE = 200
"""Events that are read from the log at once."""
GAP = 0.03
"""Seconds that an event which came too early waits for those before it, until they are read."""
MAX_AHEAD = 512
"""Events that came too early and are kept."""
MAX_RECENT = 256
"""Events that came while readers join, and are kept for them."""
AGAIN = 0.5
"""Seconds until the log is asked again after it did not answer."""

ReadPage = Callable[[str, int, int], Awaitable[Page]]
"""Reads a stream: its name, after which offset, how many events."""
Head = tuple[str | None, int]
"""The epoch and the top of a stream."""
Place = tuple[str | None, int | None]
"""The same of those who are live; no top while nobody is."""
Spawn = Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]
"""Starts a task, which ends with the hub at the latest."""

log = structlog.get_logger("ferrule.streams")


class Stopped(Exception):
    """A sink takes nothing any more."""


class Sink(Protocol):
    """What a reader hands its events to."""

    def deliver(self, event: Event, epoch: str) -> bool:
        """Take an event, of the log or a live one; False if there is no room for it."""
        ...

    def begun(self, epoch: str | None, top: int) -> None:
        """The reader begins, and this is the stream's head."""
        ...

    def live(self, epoch: str | None, offset: int) -> None:
        """All events up to this one were handed over: from here on they come as they happen."""
        ...

    def reset(self, epoch: str | None, offset: int) -> None:
        """Events are missing between the last one and this place, after which it goes on."""
        ...

    async def drained(self) -> None:
        """Return when there is room for more; raise `Stopped` if there will be none."""
        ...

    def broken(self) -> None:
        """The reader failed: nothing more will come."""
        ...


class Reader:
    """One reader: a place in a stream, and what it hands its events to.

    `since` None means live only: from the stream's top on. While a wire is given that flows, it
    takes the messages of live events instead of `sink.deliver`.
    """

    def __init__(
        self, room: "Room", sink: Sink, since: Position | None, wire: FrameWire | None = None
    ) -> None:
        self.room = room
        self.sink = sink
        self.wire = wire
        self.epoch: str | None = since.epoch if since else None
        self.last = since.offset if since else -1
        self._from_top = since is None
        self._begun = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read on from the last event, until it is live."""
        self.room.joining.add(self)
        self._task = self.room.spawn(self._guarded(), "catching-up")

    async def stop(self) -> None:
        """Hand over nothing any more."""
        self.room.leave(self)
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    def takes(self, event: Event, epoch: str) -> bool:
        """Hand over a live event; False if there is no room for it."""
        try:
            return self.sink.deliver(event, epoch)
        except Exception:
            # Whatever failed must not keep it from the others; it is told by the next try.
            return False

    def fall_behind(self, last: int) -> None:
        """Go back to the log: there was no room for what follows this event."""
        self.last = last
        self.start()

    async def _guarded(self) -> None:
        try:
            await self._catch_up()
        except Stopped:
            self.room.leave(self)
        except Exception as error:
            log.error("a reader failed", stream=self.room.stream, exc_info=error)
            self.sink.broken()

    async def _catch_up(self) -> None:
        room = self.room
        while True:
            await self.sink.drained()
            asked = max(self.last, 0)
            page = await room.page(self.epoch, asked)
            events = self._take(page, asked)
            full = False
            for event in events:
                if not self.sink.deliver(event, page.epoch or ""):
                    full = True
                    break
                self.last = event.offset
            room.found(page.epoch, events)
            # Nothing is held for who waits: what is left of the page is read again.
            if page.more or full or self.last < asked:
                continue
            # Without an await between this and the look at what came meanwhile, nothing is missed.
            if room.admit(self):
                self.sink.live(self.epoch, self.last)
                return
            await room.mended()

    def _take(self, page: Page, asked: int) -> list[Event]:
        """The events of a page that come next for this reader; it was asked for after `asked`."""
        if not self._begun:
            self._begun = True
            self.sink.begun(page.epoch, page.top)
            if self._from_top:
                self.epoch, self.last = page.epoch, page.top
                return []
        replaced = self.epoch is not None and page.epoch != self.epoch
        self.epoch = page.epoch
        if replaced or self.last < page.floor:
            self.last = page.floor
            self.sink.reset(page.epoch, page.floor)
        elif self.last > page.top:
            # The log is younger than the reader: it came back from a backup.
            self.last = page.top
            self.sink.reset(page.epoch, page.top)
        if self.last < asked:
            # It went back, and the page lacks what comes next.
            return []
        return self._whole(
            [e for e in page.events(self.room.channel) if e.offset > self.last], page
        )

    def _whole(self, events: list[Event], page: Page) -> list[Event]:
        """Those that follow one another; where rows were lost, nobody is left to believe it."""
        if self.last < page.top and (not events or events[0].offset > self.last + 1):
            log.error("events of a stream are missing in the log", stream=self.room.stream)
            self.last = events[0].offset - 1 if events else page.top
            self.sink.reset(page.epoch, self.last)
        following = enumerate(events, self.last + 1)
        return [event for offset, event in following if event.offset == offset]


class Room:
    """The readers of one stream in this process."""

    def __init__(
        self,
        stream: str,
        channel: str,
        read: ReadPage,
        *,
        spawn: Spawn,
        emptied: Callable[["Room"], None],
    ) -> None:
        self.stream = stream
        self.channel = channel
        self.epoch: str | None = None
        self.top: int | None = None
        """What all live readers were handed; None while nobody is live."""
        self.seen: Head = (None, 0)
        """The epoch and the top that anybody spoke of last, and the log did not contradict."""
        self.live = Audience[Reader]()
        self.joining: set[Reader] = set()
        self._ahead: dict[int, Event] = {}
        self._recent: dict[int, Event] = {}
        self._recent_epoch: str | None = None
        self.spawn = spawn
        self._read = read
        self._emptied = emptied
        self._pages: dict[tuple[str | None, int, Head, int], _Shared] = {}
        self._mending: asyncio.Task[None] | None = None
        self._doubted = False
        """Whether somebody spoke of another epoch since the log was asked."""
        self._epochs = 0
        """How often somebody spoke of another epoch than the one before."""

    def offer(self, epoch: str | None, events: Sequence[Event]) -> None:
        """Hand what was committed to those who are live, each event once and in order."""
        if events:
            self._spoken_of(epoch, events[-1].offset)
            if self.joining:
                self._remember(epoch, events)
            self.found(epoch, events)
            self._mend(GAP if epoch == self.epoch else 0.0)

    def found(self, epoch: str | None, events: Sequence[Event]) -> None:
        """The same for events of the log, which are no news: others may be known of."""
        if epoch != self.epoch:
            return
        for event in events:
            if self.top is None:
                return
            if event.offset == self.top + 1:
                self._hand_over(event)
            elif event.offset > self.top and len(self._ahead) < MAX_AHEAD:
                self._ahead[event.offset] = event
        while self.top is not None and (event := self._ahead.pop(self.top + 1, None)) is not None:
            self._hand_over(event)
        if not self._lags():
            self._ahead.clear()

    @property
    def place(self) -> Place:
        """Where those who are live stand, for `told`."""
        return self.epoch, self.top

    def told(self, epoch: str | None, top: int, stood: Place | None = None) -> None:
        """What the database has of the stream; looks whether a last event was missed.

        `stood` is where those who are live were when it was asked.
        """
        self._spoken_of(epoch, top)
        self._compare(epoch, top, stood)
        self._mend()

    def admit(self, reader: Reader) -> bool:
        """Whether a reader who has read the log to its end is live from now on."""
        self._bring(reader)
        if self.top is None:
            epoch, top = self.seen
            if reader.epoch != epoch or reader.last < top:
                return False
            self.epoch, self.top = reader.epoch, reader.last
            self._ahead.clear()
            # Of two streams of the name the later one may have been spoken of first.
            self._mend()
        elif reader.epoch != self.epoch or reader.last > self.top:
            self._mend()
            return False
        elif reader.last < self.top:
            return False
        self._joins_no_more(reader)
        self.live.add(reader, reader.wire)
        return True

    def leave(self, reader: Reader) -> None:
        """Forget a reader, by identity; the last one closes the room."""
        self._joins_no_more(reader)
        self.live.discard(reader)
        if not self.live:
            self.top = None
            self._ahead.clear()
            if not self.joining:
                self.close()

    def close(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
        for shared in self._pages.values():
            shared.task.cancel()
        self._emptied(self)

    async def page(self, epoch: str | None, after: int) -> Page:
        """A page of the log. Readers who stand at the same place share it.

        That loses nothing: nothing was spoken of since it was asked for.
        """
        key = epoch, after, self.seen, self._epochs
        shared = self._pages.get(key)
        if shared is None:
            task = self.spawn(self._persistent(after), "reading")
            shared = self._pages[key] = _Shared(task, self.place)
        shared.waiting += 1
        try:
            page = await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                # At once, so that nobody waits for what is being cancelled.
                if self._pages.get(key) is shared:
                    del self._pages[key]
                shared.task.cancel()
        if key[2:] == (self.seen, self._epochs):
            # Where it has less than was spoken of before, that is not so, or not any more.
            self.seen = page.epoch, page.top
        self._compare(page.epoch, page.top, shared.stood)
        self._mend()
        return page

    async def mended(self) -> None:
        """Return when those who are live were brought up to what is known to exist."""
        if self._mending is not None:
            await asyncio.wait([self._mending])

    def _remember(self, epoch: str | None, events: Sequence[Event]) -> None:
        """Keep what comes for those who join, as long as there are any."""
        if epoch != self._recent_epoch:
            self._recent.clear()
            self._recent_epoch = epoch
        for event in events:
            self._recent[event.offset] = event
        while len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]

    def _bring(self, reader: Reader) -> None:
        """Hand a reader who joins what came while its page was on the way.

        Where events come faster than pages, reading on would never reach the end.
        """
        if reader.epoch != self._recent_epoch:
            return
        while (event := self._recent.get(reader.last + 1)) is not None:
            if not reader.sink.deliver(event, reader.epoch or ""):
                return
            reader.last = event.offset

    def _joins_no_more(self, reader: Reader) -> None:
        self.joining.discard(reader)
        if not self.joining:
            self._recent.clear()

    def _hand_over(self, event: Event) -> None:
        message, epoch = event.message, self.epoch or ""
        # From here on nothing may keep it from any of them.
        self.top = event.offset
        slow = self.live.send(message, lambda reader: reader.takes(event, epoch))
        for reader in slow:
            self.live.discard(reader)
            reader.fall_behind(event.offset - 1)
        if slow and not self.live:
            self.top = None
            self._ahead.clear()

    def _spoken_of(self, epoch: str | None, top: int) -> None:
        # Which of two epochs is the later one is known to the log alone; the first is no doubt.
        if self.top is not None:
            doubtful = epoch != self.epoch
        else:
            doubtful = self.seen[0] not in (None, epoch)
        self._doubted = self._doubted or doubtful
        self._epochs += epoch != self.seen[0]
        if epoch != self.seen[0] or top > self.seen[1]:
            self.seen = epoch, top

    def _compare(self, epoch: str | None, top: int, stood: Place | None) -> None:
        """Doubt a log that has less than was handed over before it was asked.

        It went back under its readers: to a backup, or to a copy that had not got everything.
        """
        if stood is not None and stood[1] is not None and epoch == stood[0] and top < stood[1]:
            self._doubted = True

    def _mend(self, after: float = 0.0) -> None:
        if self._lags() and (self._mending is None or self._mending.done()):
            self._mending = self.spawn(self._bring_up(after), "mending")

    async def _bring_up(self, after: float) -> None:
        """Read what those who are live have not been handed."""
        if after:
            await asyncio.sleep(after)
            if not self._lags():
                return
        while self.top is not None:
            asked, self._doubted = self.top, False
            page = await self.page(self.epoch, asked)
            if not self._continues(page, asked):
                return self._start_over()
            self.found(page.epoch, page.events(self.channel))
            if self.top == asked and page.top > asked:
                # Rows were lost: each reader is told so.
                return self._start_over()
            if not page.more and not self._lags():
                return

    def _lags(self) -> bool:
        """Whether there are events that those who are live have not been handed."""
        epoch, top = self.seen
        behind = self._doubted or self.epoch != epoch
        return self.top is not None and (behind or self.top < top)

    def _continues(self, page: Page, asked: int) -> bool:
        """Whether a page goes on where those who are live stand."""
        if self.top is None:
            return True
        return page.epoch == self.epoch and page.floor <= self.top and page.top >= asked

    def _start_over(self) -> None:
        """Let every reader find out by itself where the log goes on."""
        last, self.top = self.top or 0, None
        self._ahead.clear()
        for reader in list(self.live):
            self.live.discard(reader)
            reader.fall_behind(last)

    async def _persistent(self, after: int) -> Page:
        while True:
            try:
                return await self._read(self.stream, after, PAGE)
            except (Error, OSError) as error:
                log.warning("a stream waits for the database", reason=type(error).__name__)
                await asyncio.sleep(AGAIN)


@dataclass(eq=False)
class _Shared:
    """A page that several wait for; when none does any more, it is not read."""

    task: asyncio.Task[Page]
    stood: Place
    """Where those who are live stood when it was asked for."""
    waiting: int = 0
