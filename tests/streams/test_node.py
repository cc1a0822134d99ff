"""A process among those of the application."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ferrule.observability.health import Degraded
from ferrule.streams import node
from ferrule.streams.bus.memory import MemoryBus
from ferrule.streams.bus.none import NoBus
from ferrule.streams.node import Node
from tests.streams.brokers import Broker, LossyBus, until

ACROSS = pytest.mark.parametrize("kind", ["redis", "postgresql"], indirect=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a tenth."""
    for name, seconds in (("CANARY", 0.025), ("DEAF", 0.15), ("GONE", 0.5)):
        monkeypatch.setattr(node, name, seconds)


@asynccontextmanager
async def on(*nodes: Node) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for each in nodes:
            await stack.enter_async_context(each.running())
        yield


async def test_the_others_hear_what_is_told(broker: Broker) -> None:
    nodes = [Node(broker.bus()) for _ in range(3)]
    heard: list[list[tuple[str, str, bytes]]] = [[], [], []]
    for each, list_ in zip(nodes, heard, strict=True):
        for kind in ("greet", "part"):
            each.on(kind, lambda id, body, k=kind, to=list_: to.append((k, id, body)))
    async with on(*nodes):
        if broker.kind != "memory":
            await until(lambda: len(nodes[0].nodes) == 2)
        nodes[0].tell("greet", "Grüße\n\nin Zeilen".encode())
        nodes[0].tell("unheard-of", b"")
        nodes[0].tell("part", b"")
        await until(lambda: len(heard[1]) == len(heard[2]) == 2)
    told = [("greet", "Grüße\n\nin Zeilen".encode()), ("part", b"")]
    expected = [(kind, nodes[0].id, body) for kind, body in told]
    assert heard == [[], expected, expected]
    assert len({each.id for each in nodes}) == 3


async def test_nodes_know_each_other(broker: Broker) -> None:
    one, other = Node(broker.bus()), Node(broker.bus())
    gone: list[str] = []
    one.on_gone(gone.append)
    async with on(one):
        async with on(other):
            if broker.kind == "memory":
                other.tell("anything", b"")
            await until(lambda: list(one.nodes) == [other.id])
            await until(lambda: not one.deaf and not other.deaf)
            assert time.monotonic() - one.nodes[other.id] < 5
            assert await one.check() == {"kind": broker.kind, "nodes": 2}
        # It said so, and is not waited for.
        await until(lambda: gone == [other.id], seconds=2)
        assert one.nodes == {}


@ACROSS
async def test_it_is_deaf_until_it_has_heard_itself(broker: Broker) -> None:
    each, heard = Node(broker.bus()), []
    each.on_heard(lambda: heard.append(each.deaf))
    assert each.deaf
    async with on(each):
        assert each.deaf
        await until(lambda: not each.deaf)
        assert heard == [False]
        await until(lambda: each.deaf_for < 0.3)


@ACROSS
async def test_a_cut_makes_it_deaf_and_it_knows(broker: Broker, logged) -> None:
    async with broker.proxy() as proxy:
        each, other = Node(broker.bus(proxy)), Node(broker.bus())
        heard, gone, told = [], [], []
        each.on_heard(lambda: heard.append(time.monotonic()))
        each.on_gone(gone.append)
        each.on("word", lambda id, body: told.append(body))
        async with on(other, each):
            await until(lambda: not each.deaf and each.nodes)
            proxy.hold()
            await until(lambda: each.deaf, seconds=5)
            assert each.deaf_for > 0.7
            with pytest.raises(Degraded) as degraded:
                await each.check()
            assert degraded.value.detail["kind"] == broker.kind
            assert degraded.value.detail["deaf_for"] > 0.7
            await until(lambda: not other.deaf)
            proxy.cut()
            proxy.mend()
            await until(lambda: not each.deaf)
            assert len(heard) == 2
            other.tell("word", b"again")
            await until(lambda: told)
        assert set(gone) <= {other.id}
    events = [line["event"] for line in logged]
    assert events.count("heard again") == events.count("the bus is back") == 1


async def test_in_memory_nobody_is_deaf() -> None:
    each, heard = Node(MemoryBus()), []
    each.on_heard(lambda: heard.append(1))
    assert not each.deaf
    async with on(each):
        assert heard == [1]
        assert each.deaf_for == 0
        assert await each.check() == {"kind": "memory", "nodes": 1}


async def test_without_a_bus_it_stays_deaf(quick, logged) -> None:
    each = Node(NoBus())
    async with on(each):
        await asyncio.sleep(0.4)
        assert each.deaf
        with pytest.raises(Degraded):
            await each.check()
    assert [line["event"].split(":")[0] for line in logged] == ["no bus", "deaf"]


async def test_who_falls_silent_is_gone(quick) -> None:
    bus = LossyBus()
    one, other = Node(bus), Node(bus)
    gone: list[str] = []
    one.on_gone(gone.append)
    async with on(one, other):
        await until(lambda: one.nodes)
        bus.lost = lambda message: message.startswith(other.id.encode())
        await until(lambda: gone)
        assert other.deaf
        bus.lost = lambda message: False
        await until(lambda: one.nodes)
    assert gone[0] == other.id


async def test_who_is_deaf_takes_nobody_for_gone(quick) -> None:
    bus = LossyBus()
    one, other = Node(bus), Node(bus)
    gone: list[str] = []
    one.on_gone(gone.append)
    async with on(one, other):
        await until(lambda: one.nodes and not one.deaf)
        bus.lost = lambda message: True
        await asyncio.sleep(0.8)
        assert one.deaf
        assert list(one.nodes) == [other.id]
        bus.lost = lambda message: False
        await until(lambda: not one.deaf)
        await asyncio.sleep(0.1)
        assert gone == []


async def test_who_is_far_behind_is_deaf(quick) -> None:
    bus = LossyBus()
    one = Node(bus)
    swallowed: list[bytes] = []
    async with on(one):
        await until(lambda: not one.deaf)
        bus.lost = lambda message: not swallowed.append(message)
        await until(lambda: one.deaf)
        await asyncio.sleep(0.2)
        one._receive(swallowed[0])
        assert one.deaf, "what was said long ago arrives only now"
        one._receive(swallowed[-1])
        assert not one.deaf


async def test_handlers_that_raise_do_no_harm(broker: Broker, logged) -> None:
    one, other = Node(broker.bus()), Node(broker.bus())
    heard: list[bytes] = []

    def fail(*arguments: object) -> None:
        raise RuntimeError("in a handler")

    one.on("fails", fail)
    one.on("works", lambda id, body: heard.append(body))
    for register in (one.on_heard, one.on_gone, one.on_beat):
        register(fail)
    one.on_gone(lambda id: heard.append(b"gone"))
    async with on(one):
        async with on(other):
            other.tell("fails", b"")
            other.tell("works", b"1")
            await until(lambda: heard)
        await until(lambda: len(heard) == 2)
    assert heard == [b"1", b"gone"]
    assert all("RuntimeError" in repr(line["exc_info"]) for line in logged)


def test_a_kind_is_handled_once() -> None:
    each = Node(MemoryBus())
    each.on("word", lambda id, body: None)
    for kind in ("word", "canary", "bye"):
        with pytest.raises(ValueError, match=kind):
            each.on(kind, lambda id, body: None)
