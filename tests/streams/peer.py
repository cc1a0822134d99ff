"""A WebSocket client that can misbehave, byte by byte, and a server of one ASGI application."""

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import uvicorn

HOST = "127.0.0.1"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEADLINE = 5.0
OURS = "ferrule.streams.uvicorn"

App = Callable[[Any, Any, Any], Awaitable[None]]


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None
) -> bytes:
    """A frame of a client; `length` is what its head says, if not the truth."""
    size = len(payload) if length is None else length
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    # Masked with zeros, which leaves the payload as it is.
    return head + bytes(4) + payload


class Peer:
    """A connection to a server: `async with Peer(port) as peer`."""

    def __init__(self, port: int, path: str = "/", **headers: str) -> None:
        self._port, self._path, self._headers = port, path, headers
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""

    async def __aenter__(self) -> "Peer":
        connection = socket.socket()
        # Small, so that who does not read is noticed soon.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (HOST, self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=connection, limit=2048)
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Host": f"{HOST}:{self._port}",
            **{"Connection": "Upgrade", "Upgrade": "websocket"},
            **{"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"},
            **{name.replace("_", "-"): value for name, value in self._headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"GET {self._path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = answer.rstrip().split("\r\n")
            self.status = int(first.split()[1])
            self.headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
            }
            if self.status != 101:
                self.body = await self.reader.readexactly(int(self.headers["content-length"]))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return

    def send(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.writer.write(frame(opcode, payload, **how))

    def send_text(self, text: str) -> None:
        self.send(TEXT, text.encode())

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame; None at the end of the connection."""
        try:
            async with asyncio.timeout(DEADLINE):
                first, size = await self.reader.readexactly(2)
                if size == 126:
                    (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                return first & 15, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def receive_text(self) -> str:
        received = await self.receive()
        assert received is not None
        assert received[0] == TEXT, received
        return received[1].decode()

    async def closed(self) -> tuple[int, str] | None:
        """Read to the end of the connection; code and reason of the close frame."""
        told = None
        while (received := await self.receive()) is not None:
            if received[0] == CLOSE:
                told = struct.unpack("!H", received[1][:2])[0], received[1][2:].decode()
                self.send(CLOSE, received[1])
        return told


@asynccontextmanager
async def served(app: App, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """uvicorn with our protocol, in this loop; `server.port` is where it listens."""
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(
        app,
        **{
            **{"http": f"{OURS}.http:HttpProtocol", "ws": f"{OURS}.websocket:FrameProtocol"},
            **{"ws_max_size": 65_536, "ws_per_message_deflate": False},
            **{"lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 5, **options},
        },
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    server.port = listener.getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        async with asyncio.timeout(DEADLINE):
            await server.shutdown(sockets=[listener])


async def soon(condition: Callable[[], object]) -> None:
    """Return when it holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)
