"""A proxy before several servers: `python balancer.py <port> <port of a server> …`.

A connection is brought to the next server that takes it.
"""

import asyncio
import itertools
import resource
import sys

HOST = "127.0.0.1"


class End(asyncio.Protocol):
    """One end of a connection; `peer` is the other one."""

    def __init__(self, peer: "End | None" = None) -> None:
        self.peer = peer
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()


class Front(End):
    """The end of a client."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self._ports = ports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        loop, back = asyncio.get_running_loop(), End(self)
        for port in self._ports:
            try:
                await loop.create_connection(lambda: back, HOST, port)
            except OSError:
                continue
            self.peer = back
            self.transport.resume_reading()
            return
        self.transport.abort()


async def serve(port: int, *backs: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    turns = itertools.count()

    def front() -> Front:
        first = next(turns) % len(backs)
        return Front([*backs[first:], *backs[:first]])

    loop = asyncio.get_running_loop()
    server = await loop.create_server(front, HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
