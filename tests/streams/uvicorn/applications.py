"""Applications that are served by our protocols, on both loops."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from ferrule.streams.uvicorn.websocket import FrameProtocol
from ferrule.streams.wire import EXTENSION, FrameWire, Message
from tests.streams.peer import soon

ABORT = 0.3
LARGE, SMALL = Message(b"x" * 100_000), Message(b"x" * 5_000)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def on_both_loops(scenario: Callable[[], Awaitable[None]]) -> Any:
    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
    def test(loop: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(scenario())

    return test


class Live:
    """An application that accepts, and keeps what it receives until it is told to read no more."""

    def __init__(self, *, reads: bool = True) -> None:
        self.wire: FrameWire = None  # type: ignore[assignment]
        self.reading = asyncio.Event()
        if reads:
            self.reading.set()
        self.received: list[Any] = []
        self.ended = 0
        self.lost = 0
        self.send: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.wire = scope["extensions"][EXTENSION]
        self.wire.on_lost = self._lost
        self.send = send
        assert (await receive())["type"] == "websocket.connect"
        assert not self.wire.flowing
        await send({"type": "websocket.accept"})
        try:
            while True:
                await self.reading.wait()
                message = await receive()
                self.received.append(message)
                if message["type"] == "websocket.disconnect":
                    break
        finally:
            self.ended += 1

    def _lost(self) -> None:
        self.lost += 1

    @property
    def protocol(self) -> FrameProtocol:
        owner = self.wire._owner
        assert isinstance(owner, FrameProtocol)
        return owner

    @property
    def texts(self) -> list[str]:
        return [each["text"] for each in self.received if each["type"] == "websocket.receive"]

    @property
    def code(self) -> int | None:
        codes = [m["code"] for m in self.received if m["type"] == "websocket.disconnect"]
        return codes[0] if codes else None

    async def over(self, server: Any) -> None:
        """Return when nothing is left of the connection."""
        await soon(lambda: self.ended and self.lost)
        await soon(lambda: not server.server_state.connections and not server.server_state.tasks)
        assert (self.ended, self.lost) == (1, 1)
        assert not self.wire.flowing

    async def fill(self) -> None:
        """Write until the transport takes no more."""
        while self.wire.flowing:
            self.wire.write(LARGE)
            await asyncio.sleep(0)


class Answering(Live):
    """The same beside answers of HTTP, which may never end."""

    def __init__(self, *, complete: bool, size: int) -> None:
        super().__init__()
        self.complete = complete
        self.body = bytes(size)
        self.answering = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            return await super().__call__(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = not self.complete
        await send({"type": "http.response.body", "body": self.body, "more_body": more})
        self.answering = True
        while more:
            try:
                async with asyncio.timeout(0.05):
                    more = (await receive())["type"] != "http.disconnect"
            except TimeoutError:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})


@asynccontextmanager
async def asking(
    server: Any, *, room: int = 4096, last: bool = False
) -> AsyncIterator[socket.socket]:
    """A connection that has sent a request of HTTP, the `last` one or not, and reads nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        await loop.sock_sendall(client, LAST_REQUEST if last else REQUEST)
        yield client
