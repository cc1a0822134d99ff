"""The hub: what it hears, what it tells, and how often it looks for itself."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from ferrule.errors import ConfigurationError, Unavailable
from ferrule.streams import Channel
from ferrule.streams import hub as hub_file
from ferrule.streams.channels import Channels
from ferrule.streams.events import Event
from ferrule.streams.hub import AT_ONCE, COMPARE, LOOK, MAX_HINT, NEW, READING, Hub
from ferrule.streams.log import Appended
from ferrule.streams.position import Position
from tests.streams.simulation.clock import jumping
from tests.streams.simulation.database import Database, Log

CHANNELS = Channels(
    [
        Channel(kind="rooms", authorize=cast(Any, lambda: None)),
        Channel(kind="inbox", personal=True),
    ]
)
NEAR = 0.001


class Node:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.deaf = False
        self.heard = True
        self.told: list[bytes] = []
        self.hear: Callable[[str, bytes], None] = lambda node, body: None
        self.back: Callable[[], None] = lambda: None

    def on(self, kind: str, handle: Callable[[str, bytes], None]) -> None:
        assert kind == "events"
        self.hear = handle

    def on_heard(self, call: Callable[[], None]) -> None:
        self.back = call

    def tell(self, kind: str, body: bytes) -> None:
        assert kind == "events"
        self.told.append(body)


class Sink:
    """Takes everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def deliver(self, event: Event, epoch: str) -> bool:
        self.events.append(event)
        return True

    replay = deliver

    def begun(self, epoch: str | None, top: int) -> None: ...

    def live(self, epoch: str | None, offset: int) -> None: ...

    def reset(self, epoch: str | None, offset: int) -> None:
        raise AssertionError("nothing is missing")

    async def drained(self) -> None: ...

    def broken(self) -> None:
        raise AssertionError("the reader failed")

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.events]


class World:
    """Two hubs on one log; what one tells, the other hears when the test says so."""

    def __init__(self) -> None:
        self.log = Log()
        self.away = False
        self.slow: asyncio.Event | None = None
        self.reading = self.most = 0
        self.noted: list[Sequence[Appended]] = []
        self.here, self.node, self.database = self.another()
        self.there, self.other, _ = self.another()

    def another(self) -> tuple[Hub, Node, Database]:
        database, node = Database(self.log, self._way), Node()
        hub = Hub(cast(Any, database), CHANNELS, cast(Any, node), noted=self.noted.append)
        return hub, node, database

    def commit(self, stream: str, number: int = 1, *, told: bool = True) -> Appended:
        appended = self.log.append(stream, number)
        if told:
            self.here.committed([appended])
        return appended

    def carry(self) -> None:
        """Let the other hub hear what was told."""
        told, self.node.told = self.node.told, []
        for body in told:
            self.other.hear("a node", body)

    async def joined(self, hub: Hub, stream: str, since: Position | None = None) -> Sink:
        sink = Sink()
        hub.join(stream, sink, since)
        await asyncio.sleep(NEAR)
        return sink

    @asynccontextmanager
    async def running(self, *, new: bool = False) -> AsyncIterator[None]:
        async with self.here.running(), self.there.running():
            if not new:
                await asyncio.sleep(NEW + LOOK)
            yield

    async def _way(self) -> None:
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            if self.slow is not None:
                await self.slow.wait()
            if self.away:
                raise Unavailable
        finally:
            self.reading -= 1


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    lines: Counter[str] = Counter()

    class Logger:
        @staticmethod
        def warning(event: str, **_: Any) -> None:
            lines[event] += 1

        error = warning

    monkeypatch.setattr(hub_file, "log", Logger)
    return lines


@jumping
async def test_what_is_committed_here_is_handed_over_at_once() -> None:
    world = World()
    async with world.running():
        sink = await world.joined(world.here, "rooms/1")
        world.commit("rooms/1")
        assert sink.offsets == []  # The stream has begun: it is read.
        await asyncio.sleep(NEAR)
        world.commit("rooms/1", 2)
        assert sink.offsets == [1, 2, 3]
        assert [each.stream for (each,) in world.noted] == 2 * ["rooms/1"]


@jumping
async def test_the_others_are_told_with_the_events() -> None:
    world = World()
    world.commit("rooms/1", told=False)
    async with world.running():
        sink = await world.joined(world.there, "rooms/1")
        read = world.database.sessions
        appended = world.commit("rooms/1", 3)
        assert json.loads(world.node.told[0].split(b"\n")[0]) == ["rooms/1", "e0", 4]
        world.carry()
        assert sink.offsets == [2, 3, 4]
        texts = [event.message.text for event in sink.events]
        assert texts == [event.message.text for event in appended.events]
        assert world.database.sessions == read


@jumping
async def test_what_is_large_is_read_by_the_others() -> None:
    world = World()
    world.commit("rooms/1", told=False)
    async with world.running():
        sink = await world.joined(world.there, "rooms/1")
        size = len(world.log.streams["rooms/1"].texts[1])
        many = MAX_HINT // size + 1
        world.commit("rooms/1", many)
        assert len(world.node.told[0]) < 100
        world.carry()
        assert sink.offsets == []
        await asyncio.sleep(NEAR)
        assert sink.offsets == list(range(2, many + 2))


@jumping
async def test_nobody_is_told_where_nobody_hears() -> None:
    world = World()
    world.node.heard = False
    async with world.running():
        world.commit("rooms/1")
    assert not world.node.told


@jumping
async def test_hints_may_be_lost_doubled_and_late() -> None:
    world = World()
    world.commit("rooms/1", told=False)
    async with world.running():
        sink = await world.joined(world.there, "rooms/1")
        for _ in range(6):
            world.commit("rooms/1")
        told = world.node.told
        world.node.told = [told[4], told[1], told[1], told[3], told[0], told[3]]
        world.carry()
        assert sink.offsets == [2, 3]
        await asyncio.sleep(0.1)
        assert sink.offsets == [2, 3, 4, 5, 6, 7]


@jumping
async def test_hints_of_streams_that_nobody_reads() -> None:
    world = World()
    async with world.running():
        read = world.database.sessions
        world.commit("rooms/1")
        world.carry()
        await asyncio.sleep(COMPARE + LOOK)
        assert world.database.sessions == read


@jumping
async def test_a_personal_stream_is_called_by_its_channel() -> None:
    world = World()
    world.log.append("inbox/7", 1)
    async with world.running():
        sink = await world.joined(world.here, "inbox/7", Position(0))
        assert json.loads(sink.events[0].message.text)["ch"] == "inbox"


@jumping
async def test_a_kind_that_nobody_declares() -> None:
    world = World()
    with pytest.raises(ConfigurationError):
        world.here.join("halls/1", Sink(), None)
    assert not world.here._rooms


@jumping
async def test_a_room_is_shared_and_goes_with_its_last_reader() -> None:
    world = World()
    async with world.running():
        readers = [world.here.join("rooms/1", Sink(), None) for _ in range(3)]
        assert len({id(reader.room) for reader in readers}) == 1
        await asyncio.sleep(NEAR)
        for reader in readers:
            assert list(world.here._rooms) == ["rooms/1"]
            await reader.stop()
        assert not world.here._rooms
        sink = await world.joined(world.here, "rooms/1")
        world.commit("rooms/1")
        await asyncio.sleep(NEAR)
        assert sink.offsets == [1]


# Looking for itself.


async def _delay(sink: Sink, seconds: float) -> float:
    """When the next event came."""
    loop = asyncio.get_running_loop()
    began, known = loop.time(), len(sink.events)
    async with asyncio.timeout(seconds):
        while len(sink.events) == known:
            await asyncio.sleep(NEAR)
    return loop.time() - began


@jumping
async def test_now_and_then_it_looks_at_all_streams() -> None:
    world = World()
    async with world.running():
        sinks = [await world.joined(world.here, f"rooms/{number}") for number in (1, 2)]
        for number in (1, 2):
            world.commit(f"rooms/{number}", told=False)
        await asyncio.gather(*(_delay(sink, COMPARE + LOOK) for sink in sinks))
        read = world.database.sessions
        await asyncio.sleep(10 * COMPARE)
        assert world.database.sessions - read <= 10


@jumping
async def test_while_it_is_deaf_it_looks_often() -> None:
    world = World()
    async with world.running():
        sink = await world.joined(world.here, "rooms/1")
        world.node.deaf = True
        for _ in range(3):
            world.commit("rooms/1", told=False)
            assert await _delay(sink, COMPARE) <= LOOK + 3 * NEAR


@jumping
async def test_when_it_hears_again_it_looks_at_once() -> None:
    world = World()
    async with world.running():
        sink = await world.joined(world.here, "rooms/1")
        world.commit("rooms/1", told=False)
        world.node.back()
        assert await _delay(sink, COMPARE) <= 3 * NEAR


@jumping
async def test_when_it_is_new_it_looks_often() -> None:
    world = World()
    async with world.running(new=True):
        sink = await world.joined(world.here, "rooms/1")
        world.commit("rooms/1", told=False)
        assert await _delay(sink, COMPARE) <= LOOK + 3 * NEAR


@jumping
async def test_what_is_watched_is_looked_at_each_time() -> None:
    world = World()
    async with world.running():
        world.here.watch("rooms/1")
        watched = await world.joined(world.here, "rooms/1")
        other = await world.joined(world.here, "rooms/2")
        for _ in range(3):
            world.commit("rooms/1", told=False)
            world.commit("rooms/2", told=False)
            assert await _delay(watched, COMPARE) <= LOOK + 3 * NEAR
        assert other.offsets == []


@jumping
async def test_many_streams_are_looked_at_in_parts() -> None:
    world = World()
    async with world.running():
        sinks = [Sink() for _ in range(2 * AT_ONCE + 1)]
        for number, sink in enumerate(sinks):
            world.here.join(f"rooms/{number}", sink, None)
        await asyncio.sleep(NEAR)
        for number in range(len(sinks)):
            world.commit(f"rooms/{number}", told=False)
        read = world.database.sessions
        world.here.look()
        await asyncio.sleep(NEAR)
        assert {tuple(sink.offsets) for sink in sinks} == {(1,)}
        # For the heads, and then for each stream that has something new, because it has begun.
        assert world.database.sessions - read == 3 + 2 * len(sinks)


@jumping
async def test_a_database_that_is_away_is_told_of_once(logged: Counter[str]) -> None:
    world = World()
    async with world.running():
        sink = await world.joined(world.here, "rooms/1")
        world.here.watch("rooms/1")
        world.away = True
        world.commit("rooms/1", told=False)
        await asyncio.sleep(10 * LOOK)
        assert logged == {"streams wait for the database": 1}
        world.away = False
        assert await _delay(sink, COMPARE) <= LOOK + 3 * NEAR
        world.away = True
        await asyncio.sleep(10 * LOOK)
        assert logged == {"streams wait for the database": 2}


@jumping
async def test_looking_goes_on_whatever_fails(
    logged: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with world.running():
        sink = await world.joined(world.here, "rooms/1")
        world.here.watch("rooms/1")
        with monkeypatch.context() as patch:
            patch.setattr(world.log, "heads", lambda: 1 / 0)
            await asyncio.sleep(2 * LOOK)
        assert logged["comparing streams failed"] == 2
        world.commit("rooms/1", told=False)
        assert await _delay(sink, COMPARE) <= LOOK + 3 * NEAR


@jumping
async def test_readers_leave_the_database_to_requests() -> None:
    world = World()
    async with world.running():
        world.slow, world.most = asyncio.Event(), 0
        for number in range(5 * READING):
            world.here.join(f"rooms/{number}", Sink(), None)
        await asyncio.sleep(NEAR)
        assert world.most == READING
        # What must be known within a second does not wait for them.
        world.here.watch("rooms/control")
        reading = asyncio.create_task(world.here.read("rooms/control", 0, 1))
        await asyncio.sleep(NEAR)
        assert world.reading == READING + 1
        reading.cancel()
        world.slow.set()


@jumping
async def test_nothing_of_it_is_left() -> None:
    world = World()
    async with world.running():
        world.slow = asyncio.Event()
        for number in range(5):
            world.here.join(f"rooms/{number}", Sink(), None)
        await asyncio.sleep(NEAR)
    assert not world.here._tasks
    assert asyncio.all_tasks() == {asyncio.current_task()}
