"""The floor: uvloop and a protocol that does the handshake, and writes one prebuilt frame to all.

python -m benchmarks.live.contenders.raw <port>
"""

import asyncio
import base64
import hashlib
import re
import sys
from typing import cast

import uvloop

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = re.compile(rb"sec-websocket-key: *([^\r]+)", re.IGNORECASE)
ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
TEXT = 0x81

readers: "set[Connection]" = set()


def frame(payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((TEXT, size)) if size < 126 else bytes((TEXT, 126)) + size.to_bytes(2)
    return head + payload


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        readers.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self not in readers:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if end and (key := KEY.search(head)):
                digest = hashlib.sha1(key[1] + GUID).digest()
                self.transport.write(ACCEPT % base64.b64encode(digest))
                self.buffer = rest
                readers.add(self)
            return
        while message := self.take():
            if message[0] == TEXT:
                self.broadcast(frame(message[1]))

    def take(self) -> tuple[int, bytes] | None:
        """The first byte and the payload of the next masked frame, of less than 64 KiB."""
        buffer = self.buffer
        if len(buffer) < 6:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4]), 4
        if len(buffer) < start + 4 + size:
            return None
        mask = buffer[start : start + 4] * (size // 4 + 1)
        self.buffer = buffer[start + 4 + size :]
        masked = int.from_bytes(buffer[start + 4 : start + 4 + size])
        return buffer[0], (masked ^ int.from_bytes(mask[:size])).to_bytes(size)

    def broadcast(self, built: bytes) -> None:
        for each in readers:
            each.transport.write(built)


async def main(protocol: type[Connection] = Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
