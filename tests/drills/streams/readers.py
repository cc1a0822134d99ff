"""Readers of a stream as clients are: they connect, are cut, and come back at their last place."""

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.server import HOST

CUT = (OSError, EOFError, WebSocketException, TimeoutError)
"""What is raised when the connection or the server goes away, or was not there."""
SMALL = 4096
"""Bytes that the system keeps for a reader, so that who does not read is noticed soon."""
LONGEST = 1.0
"""Seconds between two attempts to connect, at the most."""


@dataclass(frozen=True)
class Got:
    """An event as it came, and when."""

    offset: int
    number: int
    sent: float
    at: float


class Reader:
    """Reads a channel over a WebSocket, and judges what comes at once."""

    def __init__(self, port: Callable[[], int], token: str, channel: str) -> None:
        self.channel = channel
        self.epoch: str | None = None
        self.offset = 0
        self.got: list[Got] = []
        self.stalled = False
        self.connected = 0
        self.is_live = False
        self.behind = 0
        """How often it was too slow, and read on from the log."""
        self.resets = 0
        self.closed: list[int] = []
        """The codes with which it was sent away."""
        self.returns: list[float] = []
        """When it was connected again after it was sent away."""
        self._port = port
        self._token = token
        self._way: Any = None
        self._after: float | None = None
        self._sent_away = False

    @property
    def since(self) -> str:
        return f"{self.epoch}:{self.offset}" if self.epoch else str(self.offset)

    async def run(self) -> None:
        """Read until cancelled."""
        wait = 0.1
        while True:
            with suppress(*CUT):
                await self._read()
            self._way = None
            wait = 0.1 if self.is_live else min(2 * wait, LONGEST)
            self.is_live = False
            after, self._after = self._after, None
            await asyncio.sleep(random.uniform(0, wait) if after is None else after)

    def cut(self) -> None:
        """End the connection without a word."""
        if self._way is not None:
            self._way.abort()

    async def _read(self) -> None:
        connection: ClientConnection
        async with connect(
            f"ws://{HOST}/api/v1/ws",
            sock=await self._socket(),
            additional_headers={"Authorization": f"Bearer {self._token}"},
            compression=None,
            ping_interval=None,
            max_queue=4,
            proxy=None,
            open_timeout=30,
            # Else the end of a connection that was cut is waited for.
            close_timeout=0.5,
        ) as connection:
            self._way = connection.transport
            self._begin()
            try:
                message = {"id": 1, "t": "sub", "ch": self.channel, "since": self.since}
                await connection.send(json.dumps(message))
                while True:
                    await self._stall()
                    self._take(json.loads(await connection.recv()))
            finally:
                if connection.close_code is not None:
                    self.closed.append(int(connection.close_code))

    async def _socket(self) -> socket.socket:
        """A connection whose buffer is small."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (HOST, self._port()))
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin(self) -> None:
        self.connected += 1
        self.is_live = False
        if self._sent_away:
            self.returns.append(time.monotonic())
        self._sent_away = False

    async def _stall(self) -> None:
        while self.stalled:
            await asyncio.sleep(0.05)

    def _take(self, message: Any) -> None:
        match message["t"]:
            case "ev":
                offset, data = message["offset"], message["data"]
                assert offset == self.offset + 1, f"{offset} after {self.since}"
                self.offset = offset
                self.got.append(Got(offset, data["number"], data["at"], time.time()))
            case "live":
                assert message["offset"] == self.offset, f"{message} after {self.since}"
                self.epoch = message["epoch"]
                # What was begun while it was read is told once more.
                self.behind += self.is_live and self.offset > 0
                self.is_live = True
            case "reset":
                self.epoch, self.offset = message["epoch"], message["offset"]
                self.resets += 1
            case "gone":
                self._after, self._sent_away = message["after_ms"] / 1000, True
            case "err":
                # The database is away: the connection is of no use without the subscription.
                assert message["retry"], message
                raise ConnectionAbortedError


class EventSource(Reader):
    """The same over server-sent events."""

    async def _read(self) -> None:
        reader, writer = await asyncio.open_connection(sock=await self._socket(), limit=2**20)
        self._way = writer.transport
        try:
            writer.write(
                f"GET /api/v1/streams/{self.channel} HTTP/1.1\r\nHost: {HOST}\r\n"
                f"Authorization: Bearer {self._token}\r\nAccept: text/event-stream\r\n"
                f"Last-Event-ID: {self.since}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                return
            self._begin()
            async for place, message in _messages(reader):
                await self._stall()
                self._take(message)
                if place is not None:
                    assert place.rpartition(":")[2] == str(self.offset)
                    self.epoch = place.rpartition(":")[0] or None
        finally:
            writer.close()
            with suppress(*CUT):
                await writer.wait_closed()


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str | None, Any]]:
    """Messages with their ids, out of the chunks of an answer."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if b"data" in fields:
                place = fields.get(b"id")
                yield None if place is None else place.decode(), json.loads(fields[b"data"])


@asynccontextmanager
async def reading(readers: list[Reader]) -> AsyncIterator[None]:
    """Let them read until the block ends."""
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
