"""Who is on which channel, on all nodes."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from ferrule.streams import node, presence
from ferrule.streams.bus import Bus
from ferrule.streams.node import Node
from ferrule.streams.presence import Presence
from tests.streams.brokers import Broker, LossyBus, until

HALL = "rooms/1"


class Place:
    """A node with what it has seen."""

    def __init__(self, bus: Bus) -> None:
        self.node = Node(bus)
        self.presence = Presence(self.node)
        self.seen: list[str] = []
        self.presence.on_change(self._see)
        self._stack = AsyncExitStack()

    def _see(self, channel: str, who: str, joined: bool) -> None:
        self.seen.append(f"{'+' if joined else '-'}{who}")

    def present(self) -> list[str]:
        return self.presence.present(HALL)

    def enter(self, *who: str) -> list[bool]:
        return [self.presence.enter(HALL, each) for each in who]

    def leave(self, *who: str) -> list[bool]:
        return [self.presence.leave(HALL, each) for each in who]

    async def start(self) -> "Place":
        await self._stack.enter_async_context(self.node.running())
        return self

    async def stop(self) -> None:
        await self._stack.aclose()


class Places(list[Place]):
    """Nodes on one bus."""

    def __init__(self, bus: LossyBus) -> None:
        self.bus = bus

    async def add(self) -> Place:
        self.append(await Place(self.bus).start())
        return self[-1]

    async def agree(self, *who: str) -> None:
        await until(lambda: all(each.present() == sorted(who) for each in self))


@pytest_asyncio.fixture
async def places(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Places]:
    for name, seconds in (("CANARY", 0.025), ("DEAF", 0.15), ("GONE", 0.5)):
        monkeypatch.setattr(node, name, seconds)
    monkeypatch.setattr(presence, "ASK_AGAIN", 0.1)
    places = Places(LossyBus())
    yield places
    for place in places:
        await place.stop()


def _of(message: bytes) -> str:
    """What a message on the bus is about."""
    head, body = message.split(b"\n", 1)
    kind = head.split(b" ")[1].decode()
    return json.loads(body.split(b"\n")[0])["what"] if kind == "presence" else kind


async def test_all_nodes_see_who_is_there(broker: Broker) -> None:
    one, other = await Place(broker.bus()).start(), await Place(broker.bus()).start()
    assert one.enter("ann", "bob") == [True, True]
    other.enter("cid")
    await until(lambda: one.present() == other.present() == ["ann", "bob", "cid"])
    assert one.leave("ann") == [True]
    await until(lambda: other.present() == ["bob", "cid"])
    assert one.presence.present("rooms/2") == []
    await one.stop()
    await until(lambda: other.present() == ["cid"])
    assert other.seen == ["+cid", "+ann", "+bob", "-ann", "-bob"]
    await other.stop()


async def test_a_user_leaves_with_the_last_connection(places: Places) -> None:
    one, other = await places.add(), await places.add()
    assert one.enter("ann", "ann") == [True, False]
    await places.agree("ann")
    assert other.enter("ann") == [False]
    await asyncio.sleep(0.05)
    assert one.leave("ann", "ann") == [False, False]
    await asyncio.sleep(0.1)
    await places.agree("ann")
    assert other.leave("ann") == [True]
    await places.agree()
    assert one.seen == other.seen == ["+ann", "-ann"]
    assert one.leave("ann", "nobody") == [False, False]
    assert one.presence.leave("rooms/unheard-of", "ann") is False


async def test_what_is_over_in_a_turn_is_not_told(places: Places) -> None:
    one, other = await places.add(), await places.add()
    one.enter("ann", "bob", "cid")
    one.leave("ann")
    await places.agree("bob", "cid")
    assert other.seen == ["+bob", "+cid"]
    assert [_of(message) for message in places.bus.sent].count("changes") == 1
    one.leave("bob")
    one.enter("bob")
    await asyncio.sleep(0.05)
    assert other.seen == ["+bob", "+cid"]


async def test_who_comes_later_asks(places: Places) -> None:
    one = await places.add()
    one.enter("ann", "bob")
    await asyncio.sleep(0.05)
    other = await places.add()
    await places.agree("ann", "bob")
    assert sorted(other.seen) == ["+ann", "+bob"]
    assert one.seen == ["+ann", "+bob"]


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_change_is_asked_for(places: Places, lost: int) -> None:
    one, other = await places.add(), await places.add()
    one.enter("ann", "bob")
    await places.agree("ann", "bob")
    places.bus.lost = lambda message: _of(message) == "changes"
    one.leave("ann")
    one.enter("cid")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    places.bus.lost = lambda message: False
    if lost == 1:  # the next one shows the gap, else the canary does
        one.enter("dan")
    expected = ["bob", "cid", "dan"] if lost == 1 else ["bob", "cid"]
    await places.agree(*expected)
    assert "-bob" not in other.seen
    assert sorted(other.seen) == sorted(["+ann", "+bob", "-ann", *(f"+{x}" for x in expected[1:])])


async def test_what_was_missed_while_deaf_is_made_up_for(places: Places) -> None:
    one, other, _ = [await places.add() for _ in range(3)]
    one.enter("ann")
    other.enter("bob")
    await places.agree("ann", "bob")
    places.bus.lost = lambda message: True
    one.leave("ann")
    one.enter("cid")
    other.enter("dan")
    await until(lambda: all(each.node.deaf for each in places))
    await asyncio.sleep(0.6)
    # Nobody knows better yet.
    assert places[2].present() == ["ann", "bob"]
    places.bus.lost = lambda message: False
    await places.agree("bob", "cid", "dan")
    assert sorted(places[2].seen) == ["+ann", "+bob", "+cid", "+dan", "-ann"]


async def test_users_of_a_node_that_is_gone_leave(places: Places) -> None:
    one, other = await places.add(), await places.add()
    one.enter("ann")
    other.enter("ann", "bob")
    await places.agree("ann", "bob")
    places.bus.lost = lambda message: message.startswith(other.node.id.encode())
    await until(lambda: one.present() == ["ann"])
    assert one.seen == ["+ann", "+bob", "-bob"]
    # It was only stopped for a while.
    places.bus.lost = lambda message: False
    await places.agree("ann", "bob")


async def test_many_users(places: Places) -> None:
    one = await places.add()
    users = [f"user-{number:05d}-🚲" for number in range(5000)]
    one.enter(*users)
    other = await places.add()
    await places.agree(*users)
    assert max(map(len, places.bus.sent)) <= presence.MAX_BODY + 200
    one.leave(*users)
    await places.agree()
    assert len(other.seen) == 10_000
    assert one.presence._here == one.presence._present == other.presence._present == {}


async def test_a_part_of_a_snapshot_that_is_lost(places: Places, monkeypatch) -> None:
    monkeypatch.setattr(presence, "MAX_BODY", 100)
    one = await places.add()
    one.enter(*(f"user-{number}" for number in range(20)))
    await asyncio.sleep(0.05)
    parts = iter(range(100))
    places.bus.lost = lambda message: _of(message) == "all" and next(parts) == 2
    await places.add()
    await places.agree(*(f"user-{number}" for number in range(20)))
    assert next(parts) > 6


async def test_they_agree_in_the_end(places: Places) -> None:
    chance = random.Random(7)
    for _ in range(3):
        await places.add()
    here: list[list[str]] = [[] for _ in places]
    for _ in range(40):
        places.bus.lost = lambda message: chance.random() < 0.3
        for _ in range(10):
            where = chance.randrange(3)
            if here[where] and chance.random() < 0.5:
                places[where].leave(here[where].pop(chance.randrange(len(here[where]))))
            else:
                here[where].append(str(chance.randrange(20)))
                places[where].enter(here[where][-1])
        await asyncio.sleep(0.005)
    places.bus.lost = lambda message: False
    await places.agree(*{user for users in here for user in users})
    for place in places:
        # Joined and left in turns, and what is left is there.
        for user in {line[1:] for line in place.seen}:
            turns = [line[0] for line in place.seen if line[1:] == user]
            assert turns == ["+-"[number % 2] for number in range(len(turns))]
            assert (turns[-1] == "+") == (user in place.present())


async def test_what_fails_on_a_change_does_no_harm(places: Places, logged) -> None:
    one, other = await places.add(), await places.add()

    def fail(*arguments: object) -> None:
        raise RuntimeError

    one.presence.on_change(fail)
    one.presence.on_change(lambda *change: seen.append(change))
    seen: list[object] = []
    other.enter("ann")
    await until(lambda: seen)
    assert seen == [(HALL, "ann", True)]
    assert logged[0]["event"] == "a change of presence was not taken"
