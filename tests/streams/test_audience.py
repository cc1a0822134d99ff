"""Who is written to directly, who is not, and that this changes at once."""

from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ferrule.streams.audience import Audience
from ferrule.streams.wire import FrameWire, Message

HI = Message(b"hi")


class Transport:
    """Takes frames; `full` is called after each."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.full: Any = None
        self.fails = False

    def write(self, frame: bytes) -> None:
        if self.fails:
            raise RuntimeError("the transport failed")
        self.frames.append(frame)
        if self.full is not None:
            self.full()


class House:
    """An audience, with the transports of those who have a wire."""

    def __init__(self) -> None:
        self.audience = Audience[str]()
        self.wires: dict[str, FrameWire] = {}
        self.transports: dict[str, Transport] = {}
        self.others: list[str] = []
        self.takes = True

    def enter(self, name: str, *, wired: bool = True) -> FrameWire:
        transport = self.transports[name] = Transport()
        wire = FrameWire(cast(Any, None), cast(Any, transport), 0.0)
        wire.flows()
        self.audience.add(name, wire if wired else None)
        self.wires[name] = wire
        return wire

    def send(self, but: str | None = None) -> tuple[str, str]:
        """Who got it directly, and who otherwise."""
        before = {name: len(transport.frames) for name, transport in self.transports.items()}
        self.others.clear()
        self.missed = self.audience.send(HI, self._otherwise, but)
        direct = [name for name, t in self.transports.items() if len(t.frames) == before[name] + 1]
        assert all(frame == HI.frame for t in self.transports.values() for frame in t.frames)
        return "".join(direct), "".join(self.others)

    def _otherwise(self, name: str) -> bool:
        self.others.append(name)
        return self.takes


@pytest.fixture
def house() -> House:
    return House()


def test_who_flows_is_written_to(house: House) -> None:
    house.enter("a")
    house.enter("b", wired=False)
    house.enter("c").stops()
    house.enter("d")
    assert house.send() == ("ad", "bc")
    assert house.missed == []


def test_who_does_not_take_it_is_named(house: House) -> None:
    house.takes = False
    house.enter("a")
    house.enter("b").stops()
    assert house.send() == ("a", "b")
    assert house.missed == ["b"]


@pytest.mark.parametrize("end", [FrameWire.stops, FrameWire.abort, FrameWire.lost])
def test_a_wire_that_stops_is_not_written_to(house: House, end: Any) -> None:
    house.enter("a")
    wire = house.enter("b")
    assert house.send() == ("ab", "")
    end(wire)
    assert house.send() == ("a", "b")


def test_a_wire_that_flows_again_is_written_to(house: House) -> None:
    wire = house.enter("a")
    wire.stops()
    assert house.send() == ("", "a")
    wire.flows()
    assert house.send() == ("a", "")


def test_a_wire_belongs_to_several_audiences(house: House) -> None:
    other = Audience[str]()
    wire = house.enter("a")
    other.add("x", wire)
    assert not other.send(HI, lambda _: False)
    other.discard("x")
    wire.stops()
    assert house.send() == ("", "a")
    assert wire.audiences == [house.audience]


@pytest.mark.parametrize(
    ("but", "got"), [("b", ("a", "cd")), ("c", ("ab", "d")), ("x", ("ab", "cd"))]
)
def test_somebody_may_be_left_out(house: House, but: str, got: tuple[str, str]) -> None:
    house.enter("a")
    house.enter("b")
    house.enter("c", wired=False)
    house.enter("d").stops()
    for _ in range(2):
        assert house.send(but) == got
    assert house.send() == ("ab", "cd")


def test_one_that_stops_by_this_keeps_it_from_nobody(house: House) -> None:
    for name in "abc":
        house.enter(name)
    house.transports["b"].full = house.wires["b"].stops
    assert house.send() == ("abc", "")
    assert house.send() == ("ac", "b")


def test_one_that_fails_keeps_it_from_nobody(house: House) -> None:
    for name in "abc":
        house.enter(name)
    house.transports["b"].fails = True
    with capture_logs() as logged:
        assert house.send(but="a") == ("c", "")
    assert house.missed == ["b"]
    assert [each["event"] for each in logged] == ["a message was not written"]


def test_whoever_leaves_leaves_nothing_behind(house: House) -> None:
    for name in "ab":
        house.enter(name)
    assert house.send() == ("ab", "")
    house.audience.discard("a")
    house.audience.discard("a")
    assert house.send() == ("b", "")
    assert (list(house.audience), len(house.audience)) == (["b"], 1)
    assert house.wires["a"].audiences == []


def test_who_comes_twice_is_there_once(house: House) -> None:
    wire = house.enter("a")
    house.audience.add("a", wire)
    assert house.send() == ("a", "")
    assert wire.audiences == [house.audience]
