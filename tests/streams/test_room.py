"""The rules of a room, one by one: who joins, who is live, who is too slow, what comes early."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ferrule.errors import Unavailable
from ferrule.streams import room as room_file
from ferrule.streams.events import Event, Page
from ferrule.streams.position import Position
from ferrule.streams.room import AGAIN, GAP, MAX_AHEAD, PAGE, Place, Reader, Room, Stopped
from ferrule.streams.wire import FrameWire
from tests.streams.simulation.clock import jumping
from tests.streams.simulation.database import Log

STREAM = "rooms/1"
NEAR = 0.001
"""Seconds in which what need not wait is done."""


class Sink:
    """Notes what it is given; takes as much as the test lets it."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.events: list[Event] = []
        self.full = False
        self.stopped = False
        self.fails = ""
        self._room = asyncio.Event()

    def deliver(self, event: Event, epoch: str) -> bool:
        return self._take("deliver", event, epoch) if not self.full else False

    def begun(self, epoch: str | None, top: int) -> None:
        self.got.append(f"begun {epoch}:{top}")

    def live(self, epoch: str | None, offset: int) -> None:
        self.got.append(f"live {epoch}:{offset}")

    def reset(self, epoch: str | None, offset: int) -> None:
        self.got.append(f"reset {epoch}:{offset}")

    async def drained(self) -> None:
        while self.full:
            await self._room.wait()
            self._room.clear()
        if self.stopped:
            raise Stopped

    def broken(self) -> None:
        self.got.append("broken")

    def drain(self) -> None:
        self.full = False
        self._room.set()

    def _take(self, how: str, event: Event, epoch: str) -> bool:
        if self.fails == how:
            raise RuntimeError("the sink failed")
        self.got.append(f"{epoch}:{event.offset}")
        self.events.append(event)
        return True

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.events]


class House:
    """A room over a log in memory, and what it asked of that."""

    def __init__(self) -> None:
        self.log = Log()
        self.asked: list[int] = []
        self.failing = 0
        self.emptied = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.held: asyncio.Event | None = None
        self.room = Room(STREAM, STREAM, self._read, spawn=self._spawn, emptied=self._emptied)

    def join(
        self, since: Position | None, sink: Sink | None = None, *, wire: FrameWire | None = None
    ) -> tuple[Sink, Reader]:
        sink = sink or Sink()
        reader = Reader(self.room, sink, since, wire)
        reader.start()
        return sink, reader

    async def live(self, since: Position | None = None) -> tuple[Sink, Reader]:
        """Somebody who is live."""
        sink, reader = self.join(since)
        await asyncio.sleep(NEAR)
        assert reader in self.room.live
        return sink, reader

    def commit(self, number: int = 1, *, told: bool = True) -> list[Event]:
        appended = self.log.append(STREAM, number)
        if told:
            self.room.offer(appended.epoch, appended.events)
        return list(appended.events)

    def hint(self, stood: Place | None = None) -> None:
        """Tell of the stream's head without its events."""
        life = self.log.streams[STREAM]
        self.room.told(life.epoch, life.top, stood)

    @asynccontextmanager
    async def slow_reads(self) -> AsyncIterator[None]:
        """What was asked for is not answered before the end of the block."""
        self.held = asyncio.Event()
        yield
        self.held.set()
        self.held = None
        await asyncio.sleep(NEAR)

    async def _read(self, stream: str, after: int, limit: int) -> Page:
        self.asked.append(after)
        rows = self.log.page(stream, after, limit)
        failing, held = self.failing, self.held
        self.failing = max(0, failing - 1)
        if held is not None:
            await held.wait()
        if failing:
            raise Unavailable
        if not rows:
            return Page(None, 0, 0, [])
        life = self.log.streams.get(stream) or self.log.lives[stream, rows[0].epoch]
        found = [(row.offset, life.kept[row.offset]) for row in rows if row.offset is not None]
        return Page(rows[0].epoch, rows[0].top, rows[0].floor, found, len(found) == limit)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _emptied(self, room: Room) -> None:
        self.emptied += 1


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the room logs."""
    logged: Counter[str] = Counter()

    class Log:
        @staticmethod
        def error(event: str, **_: Any) -> None:
            logged[event] += 1

        warning = error

    monkeypatch.setattr(room_file, "log", Log)
    return logged


# Who joins.


@jumping
async def test_it_reads_on_after_its_place_and_is_live() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live(Position(2, "e0"))
    assert sink.got == ["begun e0:5", "e0:3", "e0:4", "e0:5", "live e0:5"]
    house.commit(2)
    assert sink.got[-2:] == ["e0:6", "e0:7"]
    assert house.asked == [2]


@jumping
async def test_it_is_live_though_events_come_faster_than_pages() -> None:
    house = House()
    house.commit(5)
    await house.live()
    sinks: list[Sink] = []
    for others in (False, True):
        async with house.slow_reads():
            sink, reader = house.join(Position(0))
            sinks.append(sink)
            await asyncio.sleep(NEAR)
            house.commit(3)
        assert reader in house.room.live, others
        assert sink.got[-1] == f"live e0:{house.log.streams[STREAM].top}"
    house.commit()
    assert [sink.offsets for sink in sinks] == [list(range(1, 13))] * 2
    assert house.asked == [0, 0, 0]


@jumping
async def test_nobody_else_need_be_live_for_that() -> None:
    house = House()
    house.commit(5)
    async with house.slow_reads():
        sink, reader = house.join(Position(0))
        await asyncio.sleep(NEAR)
        house.commit(3)
    assert reader in house.room.live
    assert sink.offsets == list(range(1, 9))
    assert not house.room._recent, "nothing is kept for nobody"


@jumping
async def test_without_a_place_it_gets_what_comes() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live(None)
    house.commit()
    assert sink.got == ["begun e0:5", "live e0:5", "e0:6"]


@jumping
async def test_0_is_all_that_is_kept_and_tells_if_it_is_not_all() -> None:
    house = House()
    house.commit(5)
    whole, _ = await house.live(Position(0))
    assert whole.offsets == [1, 2, 3, 4, 5]
    # It may be the place of somebody who left when there was nothing yet.
    house.log.trim(STREAM, 3)
    sink, _ = await house.live(Position(0))
    assert sink.got == ["begun e0:5", "reset e0:3", "e0:4", "e0:5", "live e0:5"]


@jumping
async def test_pages_follow_each_other() -> None:
    house = House()
    house.commit(2 * PAGE + 1)
    sink, _ = await house.live(Position(0))
    assert sink.offsets == list(range(1, 2 * PAGE + 2))
    assert house.asked == [0, PAGE, 2 * PAGE]


@jumping
async def test_a_page_that_is_full_need_not_be_the_last() -> None:
    house = House()
    house.commit(PAGE)
    sink, _ = await house.live(Position(0))
    assert house.asked == [0, PAGE]
    assert sink.got[-1] == f"live e0:{PAGE}"


@jumping
async def test_readers_at_one_place_share_a_read() -> None:
    house = House()
    house.commit(5)
    sinks = [house.join(Position(2, "e0"))[0] for _ in range(10)]
    others = [house.join(Position(3, "e0"))[0] for _ in range(10)]
    await asyncio.sleep(NEAR)
    assert house.asked == [2, 3]
    assert [sink.offsets for sink in sinks + others] == 10 * [[3, 4, 5]] + 10 * [[4, 5]]


@jumping
async def test_replay_and_live_are_the_same_bytes() -> None:
    house = House()
    early, _ = await house.live(Position(0))
    house.commit(3)
    await asyncio.sleep(NEAR)
    late, _ = await house.live(Position(0))
    texts = [[event.message.text for event in sink.events] for sink in (early, late)]
    assert texts[0] == texts[1] == list(house.log.streams[STREAM].texts.values())


# Resets.


@jumping
async def test_behind_the_floor_it_is_told_so() -> None:
    house = House()
    house.commit(5)
    house.log.trim(STREAM, 3)
    sink, _ = await house.live(Position(2, "e0"))
    assert sink.got == ["begun e0:5", "reset e0:3", "e0:4", "e0:5", "live e0:5"]


@jumping
async def test_at_the_floor_nothing_is_missing() -> None:
    house = House()
    house.commit(5)
    house.log.trim(STREAM, 3)
    sink, _ = await house.live(Position(3, "e0"))
    assert sink.got == ["begun e0:5", "e0:4", "e0:5", "live e0:5"]


@pytest.mark.parametrize("offset", [0, 2, 5, 9])
@jumping
async def test_another_stream_of_the_name_is_read_from_its_beginning(offset: int) -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live(Position(offset, "stale"))
    every = [f"e0:{number}" for number in range(1, 6)]
    assert sink.got == ["begun e0:5", "reset e0:0", *every, "live e0:5"]


@jumping
async def test_a_log_that_is_younger_than_its_reader() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live(Position(9, "e0"))
    house.commit()
    assert sink.got == ["begun e0:5", "reset e0:5", "live e0:5", "e0:6"]


@pytest.mark.parametrize("found", ["looking", "reading"])
@jumping
async def test_a_log_that_goes_back_under_its_readers(found: str) -> None:
    house = House()
    house.commit(9)
    sink, reader = await house.live()
    house.log.go_back(STREAM, 6)
    if found == "looking":
        stood = house.room.place
        house.hint(stood)
        await asyncio.sleep(NEAR)
        assert reader in house.room.live
    else:
        late, _ = await house.live(Position(0))
        assert late.offsets == [1, 2, 3, 4, 5, 6]
    house.commit(2)
    await asyncio.sleep(NEAR)
    assert sink.got[2:] == ["reset e0:6", "live e0:6", "e0:7", "e0:8"]
    assert len(house.asked) < 8


@jumping
async def test_what_was_asked_before_is_no_log_that_went_back() -> None:
    house = House()
    house.commit(2)
    sink, _ = await house.live()
    stood = house.room.place
    house.commit()
    house.room.told("e0", 2, stood)
    async with house.slow_reads():
        house.join(Position(1, "e0"))
        await asyncio.sleep(NEAR)
        house.commit()
    assert sink.got[2:] == ["e0:3", "e0:4"]


@jumping
async def test_trimming_is_nothing_to_those_who_are_live() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live()
    house.log.trim(STREAM, 5)
    house.commit()
    assert sink.got[2:] == ["e0:6"]


@jumping
async def test_what_was_trimmed_before_it_was_handed_over_is_told() -> None:
    house = House()
    house.commit(1)
    sink, _ = await house.live()
    house.commit(3, told=False)
    house.log.trim(STREAM, 3)
    house.hint()
    await asyncio.sleep(NEAR)
    assert sink.got[2:] == ["reset e0:3", "e0:4", "live e0:4"]


@pytest.mark.parametrize("number", [1, 3, 9])
@jumping
async def test_a_stream_that_is_removed_and_begun_again(number: int) -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live()
    house.log.remove(STREAM)
    house.commit(number)
    await asyncio.sleep(NEAR)
    every = [f"e1:{offset}" for offset in range(1, number + 1)]
    assert sink.got[2:] == ["reset e1:0", *every, f"live e1:{number}"]


@jumping
async def test_a_stream_that_is_removed() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live()
    house.log.remove(STREAM)
    house.room.told(None, 0)
    await asyncio.sleep(NEAR)
    assert sink.got[2:] == ["reset None:0", "live None:0"]


@jumping
async def test_a_stream_that_begins_while_it_is_read() -> None:
    house = House()
    sink, _ = await house.live()
    house.commit(2)
    await asyncio.sleep(NEAR)
    # It is told the epoch, with which it can come back.
    assert sink.got == ["begun None:0", "live None:0", "e0:1", "e0:2", "live e0:2"]
    house.log.remove(STREAM)
    house.commit(3)
    await asyncio.sleep(NEAR)
    assert sink.got[5:] == ["reset e1:0", "e1:1", "e1:2", "e1:3", "live e1:3"]


@jumping
async def test_a_stream_that_is_trimmed_as_it_begins() -> None:
    house = House()
    sink, _ = await house.live(Position(0))
    house.commit(3, told=False)
    house.log.trim(STREAM, 2)
    house.hint()
    await asyncio.sleep(NEAR)
    # It was told that nothing is before 0, and so must be told that something was.
    assert sink.got == ["begun None:0", "live None:0", "reset e0:2", "e0:3", "live e0:3"]


# Who is live.


@jumping
async def test_each_event_once_wherever_it_came_from() -> None:
    house = House()
    sink, _ = await house.live()
    first, second = house.commit(1), house.commit(2)
    await asyncio.sleep(NEAR)
    for events in (first, second, second[:1], first):
        house.room.offer("e0", events)
    house.room.told("e0", 1)
    await asyncio.sleep(1)
    assert sink.offsets == [1, 2, 3]


@jumping
async def test_what_comes_too_early_waits_for_what_is_before_it() -> None:
    house = House()
    house.commit()
    sink, _ = await house.live()
    asked = len(house.asked)
    events = house.commit(4, told=False)
    for event in reversed(events):
        assert sink.offsets == []
        house.room.offer("e0", [event])
    assert sink.offsets == [2, 3, 4, 5]
    await asyncio.sleep(1)
    assert len(house.asked) == asked


@jumping
async def test_what_does_not_come_is_read() -> None:
    house = House()
    house.commit()
    sink, _ = await house.live()
    events = house.commit(4, told=False)
    house.room.offer("e0", events[2:])
    await asyncio.sleep(GAP / 2)
    assert sink.offsets == []
    await asyncio.sleep(GAP)
    assert sink.offsets == [2, 3, 4, 5]
    assert not house.room._ahead
    await asyncio.sleep(1)
    assert house.asked == [0, 1]


@jumping
async def test_of_what_comes_too_early_so_much_is_kept() -> None:
    house = House()
    house.commit()
    sink, _ = await house.live()
    events = house.commit(MAX_AHEAD + 20, told=False)
    for event in events[1:]:
        house.room.offer("e0", [event])
    assert len(house.room._ahead) == MAX_AHEAD
    await asyncio.sleep(1)
    assert sink.offsets == [event.offset for event in events]
    assert not house.room._ahead


@jumping
async def test_a_last_event_that_was_lost_is_found() -> None:
    house = House()
    house.commit()
    sink, _ = await house.live()
    house.commit(3, told=False)
    house.hint()
    await asyncio.sleep(NEAR)
    assert sink.offsets == [2, 3, 4]


@jumping
async def test_what_somebody_reads_is_handed_to_those_who_are_live() -> None:
    house = House()
    house.commit(2)
    sink, _ = await house.live()
    house.commit(3, told=False)
    other, _ = await house.live(Position(1, "e0"))
    assert sink.offsets == [3, 4, 5]
    assert other.offsets == [2, 3, 4, 5]


@jumping
async def test_a_rumour_that_the_log_does_not_know() -> None:
    house = House()
    house.commit(2)
    sink, _ = await house.live()
    house.room.told("e0", 99)
    await asyncio.sleep(NEAR)
    late, _ = await house.live(Position(1, "e0"))
    house.commit()
    assert (sink.offsets, late.offsets) == ([3], [2, 3])
    await asyncio.sleep(10)
    assert len(house.asked) < 5


@jumping
async def test_a_late_word_of_a_stream_that_is_gone() -> None:
    house = House()
    old = house.commit(9)
    house.log.remove(STREAM)
    house.commit(2)
    sink, _ = await house.live(Position(0))
    house.room.offer("e0", old)
    house.room.told("e0", 9)
    await asyncio.sleep(NEAR)
    house.commit()
    await asyncio.sleep(1)
    assert sink.got == ["begun e1:2", "e1:1", "e1:2", "live e1:2", "e1:3"]


@jumping
async def test_a_late_word_of_it_while_somebody_reads_what_it_was() -> None:
    house = House()
    house.commit(3)
    async with house.slow_reads():
        sink, _ = house.join(Position(3, "e0"))
        await asyncio.sleep(NEAR)
        late = house.commit(2, told=False)
        house.log.remove(STREAM)
        house.commit(2)
        house.room.offer("e0", late)
    await asyncio.sleep(2 * GAP)
    assert sink.got[-4:] == ["reset e1:0", "e1:1", "e1:2", "live e1:2"]


@jumping
async def test_a_read_of_before_it_was_replaced_is_not_shared() -> None:
    house = House()
    house.commit(5)
    sink, _ = await house.live()
    async with house.slow_reads():
        house.join(Position(5, "e0"))
        await asyncio.sleep(NEAR)
        house.log.remove(STREAM)
        house.commit(2)
        house.room.told("e0", 5)
        await asyncio.sleep(NEAR)
    assert sink.got[-4:] == ["reset e1:0", "e1:1", "e1:2", "live e1:2"]


# What is committed while somebody reads.


@pytest.mark.parametrize("with_events", [True, False])
@jumping
async def test_what_is_committed_during_the_read(with_events: bool) -> None:
    house = House()
    house.commit(3)
    async with house.slow_reads():
        sink, reader = house.join(Position(0))
        await asyncio.sleep(NEAR)
        house.commit(told=with_events)
        house.hint()
    assert sink.offsets == [1, 2, 3, 4]
    assert reader in house.room.live


@pytest.mark.parametrize("with_events", [True, False])
@jumping
async def test_a_read_of_before_is_not_shared(with_events: bool) -> None:
    house = House()
    house.commit(3)
    async with house.slow_reads():
        _, early = house.join(Position(3, "e0"))
        await asyncio.sleep(NEAR)
        house.commit(told=with_events)
        house.hint()
        sink, _ = house.join(Position(3, "e0"))
        await asyncio.sleep(NEAR)
        await early.stop()
    assert sink.got == ["begun e0:4", "e0:4", "live e0:4"]


@jumping
async def test_a_read_of_another_stream_is_not_shared() -> None:
    house = House()
    house.commit(3)
    async with house.slow_reads():
        _, early = house.join(Position(0))
        await asyncio.sleep(NEAR)
        house.log.remove(STREAM)
        house.commit(told=False)
        # It heard of the new one elsewhere.
        sink, _ = house.join(Position(0, "e1"))
        await asyncio.sleep(NEAR)
        await early.stop()
    assert sink.got == ["begun e1:1", "e1:1", "live e1:1"]


@jumping
async def test_a_page_that_was_waited_with_is_not_the_last() -> None:
    house = House()
    house.commit(3)
    sink = Sink()
    _, reader = house.join(Position(0), sink)
    await asyncio.sleep(0)
    sink.full = True
    await asyncio.sleep(NEAR)
    assert sink.offsets == []
    house.commit(told=False)
    sink.drain()
    await asyncio.sleep(NEAR)
    assert sink.offsets == [1, 2, 3, 4]
    assert reader in house.room.live


# Who is too slow.


@jumping
async def test_who_is_slow_reads_the_log_and_the_others_go_on() -> None:
    house = House()
    house.commit()
    slow, reader = await house.live()
    quick, _ = await house.live()
    slow.full = True
    house.commit(3)
    assert (slow.offsets, quick.offsets) == ([], [2, 3, 4])
    assert reader not in house.room.live
    slow.drain()
    await asyncio.sleep(NEAR)
    house.commit()
    assert slow.offsets == quick.offsets == [2, 3, 4, 5]
    assert slow.got == ["begun e0:1", "live e0:1", "e0:2", "e0:3", "e0:4", "live e0:4", "e0:5"]


@pytest.mark.parametrize("number", [1, 2, 3])
@jumping
async def test_when_all_are_slow(number: int) -> None:
    house = House()
    house.commit()
    sinks = [(await house.live())[0] for _ in range(3)]
    for sink in sinks:
        sink.full = True
    house.commit(number)
    house.commit(number)
    assert house.room.top is None
    for sink in sinks:
        sink.drain()
    await asyncio.sleep(NEAR)
    house.commit()
    assert {tuple(sink.offsets) for sink in sinks} == {tuple(range(2, 2 * number + 3))}


@jumping
async def test_the_only_one_is_slow_amid_what_came_too_early() -> None:
    house = House()
    house.commit()
    sink, _ = await house.live()
    events = house.commit(4, told=False)
    house.room.offer("e0", events[1:])
    sink.full = True
    house.room.offer("e0", events[:1])
    assert not house.room._ahead
    sink.drain()
    await asyncio.sleep(NEAR)
    assert sink.offsets == [2, 3, 4, 5]


# What fails.


@jumping
async def test_the_database_is_away(failures: Counter[str]) -> None:
    house = House()
    house.commit(3)
    house.failing = 3
    sink, reader = house.join(Position(0))
    await asyncio.sleep(3 * AGAIN - NEAR)
    assert sink.got == []
    await asyncio.sleep(2 * NEAR)
    assert sink.offsets == [1, 2, 3]
    assert reader in house.room.live
    assert failures == {"a stream waits for the database": 3}


@jumping
async def test_a_sink_that_fails_is_told_and_the_others_go_on(failures: Counter[str]) -> None:
    house = House()
    house.commit()
    before, (bad, reader), after = [await house.live() for _ in range(3)]
    bad.fails = "deliver"
    house.commit(2)
    assert before[0].offsets == after[0].offsets == [2, 3]
    bad.fails = ""
    await asyncio.sleep(NEAR)
    assert bad.offsets == [2, 3]
    # It fails again when it reads the log.
    bad.fails = "deliver"
    house.commit()
    await asyncio.sleep(NEAR)
    assert bad.got[-1] == "broken"
    assert failures == {"a reader failed": 1}
    house.commit()
    assert before[0].offsets == after[0].offsets == [2, 3, 4, 5]
    assert reader not in house.room.live


@jumping
async def test_a_wire_takes_what_is_live_while_it_flows() -> None:
    house = House()
    frames: list[bytes] = []
    wire = FrameWire(cast(Any, None), cast(Any, SimpleNamespace(write=frames.append)), 0.0)
    wire.flows()
    house.commit()
    sink, reader = house.join(Position(0), wire=wire)
    await asyncio.sleep(NEAR)
    (second,) = house.commit()
    assert frames == [second.message.frame]
    wire.stops()
    house.commit()
    sink.full = True
    house.commit()
    assert reader not in house.room.live
    wire.flows()
    sink.drain()
    await asyncio.sleep(NEAR)
    (fifth,) = house.commit()
    assert sink.offsets == [1, 3, 4]
    assert frames[1:] == [fifth.message.frame]


@jumping
async def test_a_wire_that_fails_is_told_and_the_others_go_on(failures: Counter[str]) -> None:
    house = House()
    broken = FrameWire(cast(Any, None), cast(Any, SimpleNamespace(write=None)), 0.0)
    broken.flows()
    bad, reader = house.join(None, wire=broken)
    other, _ = house.join(None)
    await asyncio.sleep(NEAR)
    bad.fails = "deliver"
    house.commit()
    await asyncio.sleep(NEAR)
    assert (bad.got[-1], other.offsets) == ("broken", [1])
    assert reader not in house.room.live


@jumping
async def test_a_sink_that_stops_is_forgotten() -> None:
    house = House()
    house.commit()
    sink, reader = await house.live()
    sink.stopped = sink.full = True
    house.commit()
    sink.drain()
    await asyncio.sleep(NEAR)
    assert not house.room.live
    assert not house.room.joining
    assert house.emptied == 1
    await reader.stop()


# Who leaves.


@jumping
async def test_after_the_stop_nothing_comes() -> None:
    house = House()
    house.commit()
    sink, reader = await house.live()
    other, _ = await house.live()
    await reader.stop()
    house.commit()
    await asyncio.sleep(1)
    assert (sink.offsets, other.offsets, house.emptied) == ([], [2], 0)


@jumping
async def test_stopping_amid_a_read() -> None:
    house = House()
    house.commit()
    async with house.slow_reads():
        sink, reader = house.join(Position(0))
        other, _ = house.join(Position(0))
        await asyncio.sleep(NEAR)
        await reader.stop()
    assert (sink.got, other.offsets, house.emptied) == ([], [1], 0)


@jumping
async def test_the_last_one_closes_the_room() -> None:
    house = House()
    house.commit()
    _, live = await house.live()
    async with house.slow_reads():
        _, joining = house.join(Position(0))
        await asyncio.sleep(NEAR)
        await live.stop()
        assert house.emptied == 0
        await joining.stop()
        assert house.emptied == 1
        await asyncio.sleep(NEAR)
        assert not house.tasks, "something is still read"


@jumping
async def test_everybody_leaves_while_it_is_mended() -> None:
    house = House()
    house.commit()
    _, reader = await house.live()
    house.commit(2, told=False)
    async with house.slow_reads():
        house.hint()
        await asyncio.sleep(NEAR)
        await reader.stop()
        sink, _ = house.join(Position(1, "e0"))
        await asyncio.sleep(NEAR)
    assert sink.offsets == [2, 3]
