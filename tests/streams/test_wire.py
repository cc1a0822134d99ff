"""Messages as frames, and the wire for servers of all kinds."""

import asyncio
import struct
from typing import Any

import pytest
from starlette.websockets import WebSocket

from ferrule.streams import wire as wires
from ferrule.streams.wire import EXTENSION, AsgiWire, FrameWire, Message, wire_of

ABORT = 0.1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "ABORT", ABORT)


class Server:
    """An ASGI server with one accepted WebSocket, which takes messages while it is `open`."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gone = False

    async def websocket(self, **extensions: Any) -> WebSocket:
        scope = {"type": "websocket", "headers": [], "extensions": extensions}
        websocket = WebSocket(scope, self._receive, self._send)
        await websocket.accept()
        return websocket

    async def wire(self) -> AsgiWire:
        wire = wire_of(await self.websocket())
        assert isinstance(wire, AsgiWire)
        self.sent.clear()
        return wire

    async def _receive(self) -> Any:
        return {"type": "websocket.connect"}

    async def _send(self, message: Any) -> None:
        await self.open.wait()
        if self.gone:
            raise OSError("the peer is gone")
        self.sent.append(message.get("text") or message.get("code"))


def message(number: int, size: int = 0) -> Message:
    return Message(f"{number}".encode().rjust(size))


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_a_message_is_one_frame(length: int) -> None:
    text = b"x" * length
    built = Message(text)
    first, size = built.frame[:2]
    head = 2
    if size == 126:
        ((size,), head) = struct.unpack("!H", built.frame[2:4]), 4
        assert size > 125
    elif size == 127:
        ((size,), head) = struct.unpack("!Q", built.frame[2:10]), 10
        assert size > 65_535
    assert (first, size) == (0x81, length)
    assert built.frame[head:] == text
    assert built.frame is built.frame
    assert built.string is built.string


def test_a_message_is_text() -> None:
    assert Message("ä".encode()).string == "ä"


async def test_the_wire_of_our_server_is_taken() -> None:
    server = Server()
    offered = FrameWire(None, None, 0.0)  # type: ignore[arg-type]
    assert wire_of(await server.websocket(**{EXTENSION: offered})) is offered
    bare = WebSocket({"type": "websocket", "headers": []}, server._receive, server._send)
    assert isinstance(wire_of(bare), AsgiWire)


async def test_messages_are_sent_in_order() -> None:
    server = Server()
    wire = await server.wire()
    for number in range(10):
        wire.write(message(number))
    assert wire.buffered == 10
    assert not wire.pings
    wire.ping()
    wire.close(4001, "draining")
    assert not wire.flowing
    wire.write(message(10))
    await wire.ended()
    assert server.sent == [*map(str, range(10)), 4001]
    assert wire.buffered == 0


@pytest.mark.parametrize(("count", "size"), [(wires.WAITING + 1, 1), (3, wires.HIGH // 2)])
async def test_it_stops_and_flows_again(count: int, size: int) -> None:
    server = Server()
    wire = await server.wire()
    flowed: list[int] = []
    wire.on_flowing = lambda: flowed.append(wire.buffered)
    server.open.clear()
    for number in range(count):
        assert wire.flowing
        wire.write(message(number, size))
    assert not wire.flowing
    server.open.set()
    while not wire.flowing:
        await asyncio.sleep(0)
    assert len(flowed) == 1
    assert flowed[0] <= wires.HIGH // 4
    await wire.ended()


async def test_an_idle_wire_has_no_task() -> None:
    before = asyncio.all_tasks()
    server = Server()
    wire = await server.wire()
    wire.write(message(1))
    while not server.sent:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    wire.write(message(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert server.sent == ["1", "2"]
    await wire.ended()


@pytest.mark.parametrize("how", ["gone", "abort", "close", "ended"])
async def test_its_end_is_told_once_and_leaves_no_task(how: str) -> None:
    before = asyncio.all_tasks()
    server = Server()
    wire = await server.wire()
    lost: list[bool] = []
    wire.on_lost = lambda: lost.append(wire.flowing)
    wire.write(message(1))
    if how == "gone":
        server.gone = True
        while not lost:
            await asyncio.sleep(0)
    else:
        server.open.clear()
        await asyncio.sleep(0)
        if how == "abort":
            wire.abort()
        elif how == "close":
            wire.close(4008)
            wire.close(4009)
    began = asyncio.get_running_loop().time()
    await wire.ended()
    assert asyncio.get_running_loop().time() - began < ABORT + 1
    assert lost == [False]
    assert server.sent == []
    assert asyncio.all_tasks() == before
    wire.write(message(2))
    wire.close(1000)
    wire.abort()
    await wire.ended()
    assert lost == [False]
    assert asyncio.all_tasks() == before


async def test_who_is_cancelled_while_it_ends_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    server = Server()
    wire = await server.wire()
    server.open.clear()
    wire.write(message(1))
    wire.close(1000)
    ending = asyncio.create_task(wire.ended())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
