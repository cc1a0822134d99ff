"""Buses to test with: over brokers that are shared, behind a cable that can be cut, or our own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from ferrule.db import Database
from ferrule.db.settings import DatabaseSettings
from ferrule.kit import Kit
from ferrule.streams.bus import Bus
from ferrule.streams.bus.memory import MemoryBus
from ferrule.streams.bus.postgresql import PostgreSQLBus
from ferrule.streams.bus.redis import RedisBus
from tests.server import free_port

REDIS = os.environ.get("FERRULE_TEST_REDIS_URL", "redis://127.0.0.1:6379")


class Cable(asyncio.Protocol):
    """One connection through `Proxy`, in one direction."""

    def __init__(self, proxy: "Proxy", peer: "Cable | None" = None) -> None:
        self._proxy, self.peer, self._early = proxy, peer, bytearray()
        self._answers = peer is not None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.cables.add(self)
        if self._proxy.broken:
            transport.abort()
        elif self.peer is None:
            self.peer = Cable(self._proxy, self)
            self._proxy.connecting(self.peer)
        else:
            transport.write(bytes(self.peer._early))

    def data_received(self, data: bytes) -> None:
        if self._proxy.holding or (self._proxy.muting and self._answers):
            return
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.cables.discard(self)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.abort()


class Proxy:
    """A way to a broker that can be cut, or swallow all that is said without a word."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self.cables: set[Cable] = set()
        self.broken = self.holding = self.muting = False
        self.port = 0
        self._connecting: set[asyncio.Task[object]] = set()

    def connecting(self, cable: Cable) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.create_connection(lambda: cable, *self._to))
        self._connecting.add(task)

    def cut(self) -> None:
        self.broken = True
        self._abort()

    def hold(self) -> None:
        self.holding = True

    def mute(self) -> None:
        """What is said arrives, and no answer comes back."""
        self.muting = True

    def mend(self) -> None:
        if self.holding or self.muting:
            self._abort()
        self.broken = self.holding = self.muting = False

    def _abort(self) -> None:
        for cable in tuple(self.cables):
            if cable.transport is not None:
                cable.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Cable(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*self._connecting, return_exceptions=True)
            self.cut()
            while self.cables:
                await asyncio.sleep(0.01)


class Broker:
    """Makes buses of one kind, all of them on the same broker, and closes what they need."""

    def __init__(self, kind: str, url: str, namespace: str, stack: AsyncExitStack) -> None:
        self.kind, self.url, self.namespace = kind, url, namespace
        self._stack = stack
        self._memory = MemoryBus()

    def bus(self, via: Proxy | None = None) -> Bus:
        url = self.url
        if self.kind == "memory":
            return self._memory
        if via is not None:
            parts = urlsplit(url)
            before = parts.netloc.rpartition("@")[0]
            netloc = f"{before}@127.0.0.1:{via.port}" if before else f"127.0.0.1:{via.port}"
            url = urlunsplit(parts._replace(netloc=netloc))
        if self.kind == "redis":
            return RedisBus(url, self.namespace)
        database = Database(url, DatabaseSettings(), Kit())
        self._stack.push_async_callback(database.close)
        return PostgreSQLBus(database, self.namespace)

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Proxy]:
        parts = urlsplit(self.url)
        port = parts.port or {"redis": 6379, "postgresql": 5432}[self.kind]
        async with Proxy(parts.hostname or "127.0.0.1", port).running() as proxy:
            yield proxy


class RedisServer:
    """A Redis of our own, which may be stopped, killed and flushed. It stores nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1"],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while not answers("127.0.0.1", self.port):
            assert time.monotonic() < until
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def own_redis(folder: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        missing("there is no redis-server")
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def answers(host: str, port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex((host, port)) == 0


def missing(why: str) -> None:
    if os.environ.get("FERRULE_TEST_REQUIRE") == "all":
        pytest.fail(why)
    pytest.skip(why)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class LossyBus(MemoryBus):
    """Over the air: `lost(message)` says what does not arrive anywhere."""

    kind = "lossy"

    def __init__(self) -> None:
        super().__init__()
        self.lost: Callable[[bytes], bool] = lambda message: False
        self.sent: list[bytes] = []

    def publish(self, message: bytes) -> None:
        self.sent.append(message)
        if not self.lost(message):
            super().publish(message)
