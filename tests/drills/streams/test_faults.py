"""Streams while readers, servers and the bus fail: each reader gets each event, in order, once."""

import asyncio
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from uuid import UUID, uuid4

import asyncpg
import pytest
from redis import Redis

from ferrule.streams.hub import NEW
from tests.drills.client import Client
from tests.drills.streams.readers import Reader, reading
from tests.drills.streams.stage import COMPLETE, Stage

full = pytest.mark.drill
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

# What fails.


async def stall(stage: Stage, readers: list[Reader]) -> None:
    """Some do not read; some of them for so long that they are sent away."""
    chosen = random.sample(readers, len(readers) // 3)
    for reader in chosen:
        reader.stalled = True
    await asyncio.sleep(random.uniform(0.5, 1.5))
    for reader in chosen[::2]:
        reader.stalled = False
    await asyncio.sleep(random.choice([0.5, 3.5]))
    for reader in chosen:
        reader.stalled = False


async def cut(stage: Stage, readers: list[Reader]) -> None:
    for _ in range(5):
        for reader in random.sample(readers, len(readers) // 3):
            reader.cut()
        await asyncio.sleep(random.uniform(0, 0.4))


async def kill(stage: Stage, readers: list[Reader]) -> None:
    server = random.choice(stage.servers)
    server.kill()
    await asyncio.sleep(random.uniform(0, 1))
    await asyncio.to_thread(server.start)


async def pause_redis(stage: Stage, readers: list[Reader]) -> None:
    assert stage.redis is not None
    stage.redis.send(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0.1, 3))
    stage.redis.send(signal.SIGCONT)
    await asyncio.sleep(0.5)


async def kill_redis(stage: Stage, readers: list[Reader]) -> None:
    assert stage.redis is not None
    stage.redis.kill()
    await asyncio.sleep(random.uniform(0, 2))
    await asyncio.to_thread(stage.redis.start)
    await asyncio.sleep(0.5)


async def flush_redis(stage: Stage, readers: list[Reader]) -> None:
    assert stage.redis is not None
    with closing(Redis.from_url(stage.redis.url)) as redis:
        for _ in range(5):
            redis.flushall()
            await asyncio.sleep(random.uniform(0, 0.3))


async def terminate(stage: Stage, readers: list[Reader]) -> None:
    """All connections to PostgreSQL are lost, that of the bus too."""
    connection = await asyncpg.connect(stage.url)
    try:
        await connection.execute(TERMINATE)
    finally:
        await connection.close()
    await asyncio.sleep(random.uniform(0, 1))


Fault = Callable[[Stage, list[Reader]], Awaitable[None]]
OF_READERS: list[Fault] = [stall, cut]
FAULTS: dict[str, list[Fault]] = {
    "redis": [*OF_READERS, kill, pause_redis, kill_redis, flush_redis],
    "postgresql": [*OF_READERS, kill, terminate],
    "sqlite": [*OF_READERS, kill],
}


async def _run(stage: Stage, faults: list[Fault], readers: int = 24) -> tuple[str, int]:
    """Write, let things fail, and look at what everybody got.

    A line about it; how often somebody was so slow that they read the log again.
    """
    id = uuid4()
    stage.forget()
    those = stage.readers(id, readers, sse=readers // 4)
    async with reading(those):
        async with stage.writing(id):
            await asyncio.sleep(0.5)
            for fault in faults:
                await fault(stage, those)
            await asyncio.sleep(0.5)
        for reader in those:
            reader.stalled = False
        seconds = await stage.complete(id, those)
    events = await stage.audit(id, those)
    codes = Counter(code for reader in those for code in reader.closed)
    behind = sum(reader.behind for reader in those)
    line = (
        f"{', '.join(fault.__name__ for fault in faults)}: {events} events to {readers} readers, "
        f"{sum(reader.connected for reader in those) - readers} reconnects {dict(codes)}, "
        f"{behind} times behind, "
        f"complete after {seconds:.2f} s, answers {dict(stage.answers)}"
    )
    return line, behind


SHORT: dict[str, list[Fault]] = {
    "redis": [cut, kill_redis],
    "postgresql": [stall, terminate],
    "sqlite": [cut, kill],
}


async def test_no_event_is_lost_or_doubled(stage: Stage, kind: str) -> None:
    line, _ = await _run(stage, SHORT[kind])
    print(f"\n{kind}: {line}")


@full
async def test_ten_runs(stage: Stage, kind: str) -> None:
    """Each fault by itself, and then all of them."""
    faults = FAULTS[kind]
    runs = [[fault] for fault in faults]
    while len(runs) < 10:
        runs.append(random.sample(faults, len(faults)))
    behind = 0
    for number, run in enumerate(runs, 1):
        line, slow = await _run(stage, run)
        print(f"\n{kind} {number}: {line}", flush=True)
        behind += slow
    assert behind > 0, "the drill did not bite: nobody was slow"
    for server in stage.servers:
        assert "Traceback" not in server.output()


# From one server to the other, with the bus and without.


class Watch:
    """What the servers say of themselves; how long this process stood still meanwhile."""

    def __init__(self, stage: Stage) -> None:
        self.answers: Counter[int] = Counter()
        self.seen: list[set[str]] = [set() for _ in stage.servers]
        self.now = [""] * len(stage.servers)
        self.still = 0.0
        self._stage = stage

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._ask(n)) for n in range(len(self.now))]
        tasks.append(asyncio.create_task(self._beat()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def all(self, status: str) -> None:
        async with asyncio.timeout(COMPLETE):
            while set(self.now) != {status}:
                await asyncio.sleep(0.02)

    async def _ask(self, number: int) -> None:
        async with Client(self._stage.servers[number].port) as client:
            while True:
                answer = await client.request("GET", "/health")
                self.answers[answer.status] += 1
                self.now[number] = answer.json()["checks"]["bus"]["status"]
                self.seen[number].add(self.now[number])
                await asyncio.sleep(0.1)

    async def _beat(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            self.still = max(self.still, time.monotonic() - began - 0.02)


@asynccontextmanager
async def _bus_away(stage: Stage) -> AsyncIterator[None]:
    """Redis stands still; or PostgreSQL has no notifications, in this database."""
    if stage.redis is not None:
        stage.redis.send(signal.SIGSTOP)
        try:
            yield
        finally:
            stage.redis.send(signal.SIGCONT)
        return
    connection = await asyncpg.connect(stage.url)
    try:
        await connection.execute(
            "ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO pg_notify_away"
        )
        # Who has prepared the statement knows the function by its number.
        await connection.execute(TERMINATE + " AND application_name = 'ferrule bus'")
        yield
        await connection.execute(
            "ALTER FUNCTION pg_catalog.pg_notify_away(text, text) RENAME TO pg_notify"
        )
    finally:
        await connection.close()


async def _deliveries(
    stage: Stage, id: UUID, reader: Reader, number: int, every: float
) -> list[float]:
    """Write to the first server; the seconds from each request to its event from the second."""
    first = len(reader.got)
    async with Client(stage.servers[0].port) as client:
        for _ in range(number):
            await stage.write(client, id)
            await asyncio.sleep(every)
    await stage.complete(id, [reader])
    return sorted(got.at - got.sent for got in reader.got[first:])


@pytest.mark.parametrize("kind", ["redis", "postgresql"], indirect=True)
@pytest.mark.parametrize("number", [10, pytest.param(100, marks=full)])
async def test_from_one_server_to_the_other(stage: Stage, kind: str, number: int) -> None:
    id, watch, other = uuid4(), Watch(stage), stage.servers[1].port
    reader = Reader(lambda: other, stage.token, f"drill/{id}")
    async with reading([reader]), watch.running():
        await stage.complete(id, [reader])
        await watch.all("ok")
        # What is new looks often.
        await asyncio.sleep(NEW)
        with_bus = await _deliveries(stage, id, reader, number, 0.03)
        async with _bus_away(stage):
            without = await _deliveries(stage, id, reader, number, 0.1)
            await watch.all("degraded")
        await watch.all("ok")
        again = await _deliveries(stage, id, reader, number, 0.03)
    await stage.audit(id, [reader])
    print(
        f"\n{kind}: {len(with_bus)} events, median {_ms(with_bus)}, worst {with_bus[-1]:.3f} s; "
        f"without the bus {len(without)}, median {_ms(without)}, worst {without[-1]:.3f} s; "
        f"when it is back {len(again)}, median {_ms(again)}, worst {again[-1]:.3f} s; "
        f"health {dict(watch.answers)}, this process stood still for {watch.still:.3f} s"
    )
    assert reader.connected == 1
    assert set(watch.answers) == {200}
    assert statistics.median(with_bus) < 0.05 + watch.still
    assert without[-1] < 1.5 + watch.still
    assert statistics.median(again) < 0.05 + watch.still


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f} ms"
