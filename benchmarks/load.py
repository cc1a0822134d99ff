"""A load generator that costs little: keep-alive connections, prebuilt requests, latencies."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a run measured: requests a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


class _Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, run: "_Run") -> None:
        self.run = run
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(random.choice(self.run.requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, length = head.lower().partition(b"content-length: ")
        if len(body) < int(length.partition(b"\r\n")[0]):
            return
        now = time.perf_counter()
        self.run.latencies.append(now - self.sent)
        self.run.failed += not head.startswith(self.run.expected)
        self.buffer = b""
        if now < self.run.end:
            self.next()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.run.open -= 1
        if not self.run.open:
            self.run.done.set()


class _Run:
    def __init__(self, requests: Sequence[bytes], status: int, seconds: float) -> None:
        self.requests = requests
        self.expected = b"HTTP/1.1 %d" % status
        self.latencies: list[float] = []
        self.failed = 0
        self.open = 0
        self.done = asyncio.Event()
        self.end = time.perf_counter() + seconds


async def measure(
    port: int, requests: Sequence[bytes], *, status: int, seconds: float, connections: int = 32
) -> Load:
    """Send these requests, chosen at random, for so long over so many connections."""
    run = _Run(requests, status, seconds)
    run.open = connections
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(run), "127.0.0.1", port)
    await run.done.wait()
    elapsed = time.perf_counter() - started
    ordered = sorted(run.latencies)
    return Load(
        rate=len(ordered) / elapsed,
        p50=ordered[len(ordered) // 2] * 1000,
        p99=ordered[int(len(ordered) * 0.99)] * 1000,
        failed=run.failed,
    )
