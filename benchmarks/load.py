"""A load generator that costs little: keep-alive connections, prebuilt requests, latencies.

On uvloop it spends about 7 µs on a request (28 on asyncio's own loop), so that it is never what is
measured, though it shares its core with PostgreSQL.
"""

import asyncio
import gc
import itertools
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
GRACE = 20.0
"""Seconds that the last answers may take; what comes later has failed."""


@dataclass(frozen=True)
class Load:
    """What a run measured: its requests, how many a second, and latencies in milliseconds."""

    requests: int
    rate: float
    p50: float
    p99: float
    failed: int


class _Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, run: "_Run") -> None:
        self.run = run
        self.buffer = b""
        self.length = -1
        self.sent = 0.0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        self.sent = time.perf_counter()
        self.waiting = True
        self.transport.write(next(self.run.requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer = buffer = self.buffer + data if self.buffer else data
        if self.length < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            found = LENGTH.search(buffer, 0, end)
            self.length = end + 4 + (int(found[1]) if found else 0)
        if len(buffer) < self.length:
            return
        now = time.perf_counter()
        self.run.latencies.append(now - self.sent)
        self.run.failed += not buffer.startswith(self.run.expected)
        self.buffer, self.length, self.waiting = b"", -1, False
        if now < self.run.end:
            self.next()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.run.failed += self.waiting
        self.run.open -= 1
        if not self.run.open:
            self.run.done.set()


class _Run:
    def __init__(self, requests: Sequence[bytes], status: int, seconds: float) -> None:
        self.requests = itertools.cycle(random.sample(requests, len(requests)))
        self.expected = b"HTTP/1.1 %d" % status
        self.latencies: list[float] = []
        self.failed = 0
        self.open = 0
        self.done = asyncio.Event()
        self.end = time.perf_counter() + seconds


async def _measure(
    port: int, requests: Sequence[bytes], status: int, seconds: float, connections: int
) -> Load:
    run = _Run(requests, status, seconds)
    run.open = connections
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(run), "127.0.0.1", port)
    try:
        await asyncio.wait_for(run.done.wait(), seconds + GRACE)
    except TimeoutError:
        run.failed += run.open
    elapsed = time.perf_counter() - started
    ordered = sorted(run.latencies) or [float("inf")]
    return Load(
        requests=len(run.latencies),
        rate=len(run.latencies) / elapsed,
        p50=ordered[len(ordered) // 2] * 1000,
        p99=ordered[int(len(ordered) * 0.99)] * 1000,
        failed=run.failed,
    )


def measure(
    port: int, requests: Sequence[bytes], *, status: int, seconds: float, connections: int = 32
) -> Load:
    """Send these requests in turn, for so long, over so many connections."""
    gc.disable()
    try:
        return uvloop.run(_measure(port, requests, status, seconds, connections))
    finally:
        gc.enable()
