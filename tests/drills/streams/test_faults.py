"""Streams while readers, servers and the bus fail: each reader gets each event, in order, once."""

import asyncio
import itertools
import json
import os
import random
import signal
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from redis import Redis
from sqlalchemy import make_url

from ferrule.streams.hub import NEW
from ferrule.testing import TestDatabases
from tests.drills.client import LOST, Client, sign_in
from tests.drills.readers import EventSource, Reader, reading
from tests.server import Server
from tests.streams.brokers import RedisServer, missing, own_redis

full = pytest.mark.drill
ROOT = Path(__file__).parents[2]
BALANCER = Path(__file__).with_name("balancer.py")
BUCKET = 0.25
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
COMPLETE = 60.0
"""Seconds on a busy machine until everybody has everything."""

MakeProcess = Callable[..., Server]


class Stage:
    """Servers, with a bus between them or none, and what a writer was told by them."""

    def __init__(self, url: str, servers: list[Server], redis: RedisServer | None) -> None:
        self.url = url
        self.servers = servers
        self.redis = redis
        self.token = ""
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.answers: Counter[int] = Counter()
        self._numbers = itertools.count()

    async def start(self) -> None:
        # One after the other: both would migrate an empty database.
        for server in self.servers:
            await asyncio.to_thread(server.start)
        self.token = await sign_in(self.servers[0].port)

    def forget(self) -> None:
        """Begin anew with another stream."""
        self.acknowledged.clear()
        self.refused.clear()
        self.answers.clear()

    def port(self) -> int:
        """That of a server, which may be down; so are the addresses that clients know."""
        return random.choice(self.servers).port

    def readers(self, id: UUID, number: int, *, sse: int = 0) -> list[Reader]:
        kinds = [EventSource] * sse + [Reader] * (number - sse)
        return [kind(self.port, self.token, f"drill/{id}") for kind in kinds]

    async def write(self, client: Client, id: UUID, **batch: Any) -> None:
        """Write events of one transaction, each with a number that nobody else has."""
        numbers = [next(self._numbers) for _ in range(random.choice([1, 1, 2, 5]))]
        data = {"numbers": numbers, "at": time.time(), **batch}
        try:
            answer = await client.request("POST", f"/drill/{id}", data)
        except LOST:
            self.answers[0] += 1
            await asyncio.sleep(0.05)
            return
        self.answers[answer.status] += 1
        if answer.status == 204:
            self.acknowledged |= set(numbers)
        elif answer.status == 422:
            self.refused |= set(numbers)
        else:
            await asyncio.sleep(0.05)

    async def keep_writing(
        self, id: UUID, done: asyncio.Event, *, pause: float = 0.02, padding: int = 8000
    ) -> None:
        """Write until it is done; some is rolled back."""
        while not done.is_set():
            async with Client(self.port()) as client:
                for _ in range(20):
                    if done.is_set():
                        break
                    await self.write(
                        client,
                        id,
                        padding="x" * padding,
                        refuse=random.random() < 0.1,
                        pause=random.choice([0, 0, 0.01]),
                    )
                    await asyncio.sleep(random.uniform(0, 2 * pause))

    @asynccontextmanager
    async def writing(self, id: UUID, writers: int = 3, **how: Any) -> AsyncIterator[None]:
        """At the end no request is under way, unless its server was killed with it."""
        done = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(writers):
                tasks.create_task(self.keep_writing(id, done, **how))
            try:
                yield
            finally:
                done.set()

    async def complete(self, id: UUID, readers: list[Reader]) -> float:
        """Wait until everybody has everything; the seconds."""
        began = time.monotonic()
        stored = await stored_numbers(self.url, id)
        while not all(reader.offset == len(stored) and reader.is_live for reader in readers):
            late = [reader for reader in readers if reader.offset != len(stored)]
            assert time.monotonic() < began + COMPLETE, [
                (reader.since, reader.is_live, reader.connected) for reader in late
            ]
            await asyncio.sleep(0.05)
            stored = await stored_numbers(self.url, id)
        return time.monotonic() - began

    async def audit(self, id: UUID, readers: list[Reader]) -> int:
        """Everybody got what is in the log; how many events that are."""
        stored = await stored_numbers(self.url, id)
        for reader in readers:
            assert [got.offset for got in reader.got] == list(range(1, len(stored) + 1))
            assert [got.number for got in reader.got] == stored
            assert reader.resets == 0
        assert len(set(stored)) == len(stored)
        lost = self.acknowledged - set(stored)
        assert not lost, f"{len(lost)} acknowledged events are lost"
        assert not self.refused & set(stored)
        return len(stored)


async def stored_numbers(url: str, id: UUID) -> list[int]:
    """What the log has, read past the application; its offsets have no gap."""
    query = (
        'SELECT e."offset", e.data FROM streams s JOIN stream_events e ON e.stream_id = s.id '
        f"WHERE s.name = 'drill/{id}' ORDER BY 1"
    )
    if url.startswith("sqlite"):
        file = make_url(url).database or ""
        with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as connection:
            rows = connection.execute(query).fetchall()
    else:
        other = await asyncpg.connect(url)
        try:
            rows = await other.fetch(query)
        finally:
            await other.close()
    assert [offset for offset, _ in rows] == list(range(1, len(rows) + 1))
    return [json.loads(data)["number"] for _, data in rows]


# The stages.


@pytest.fixture
def make(make_server: MakeProcess, monkeypatch: pytest.MonkeyPatch) -> MakeProcess:
    """Makes servers of the drills' application that do not run yet."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def process(url: str, **settings: str) -> Server:
        ours = {
            "APP": "tests.drills.streams_app:app",
            "STREAMS__PER_USER": "10000",
            "STREAMS__PER_ADDRESS": "10000",
            "STREAMS__STALLED": "2",
            "STREAMS__BACKLOG": "16384",
            "STREAMS__DRAIN": "2",
        }
        return make_server(DATABASE_URL=url, **ours | settings)

    return process


@pytest.fixture(params=["redis", "postgresql", "sqlite"])
def kind(request: pytest.FixtureRequest, databases: TestDatabases) -> str:
    """Two servers over Redis or PostgreSQL's notifications, or one on SQLite."""
    kind: str = request.param
    if kind != "sqlite" and (why := databases.why_no_postgres()):
        missing(f"PostgreSQL does not answer {why}")
    return kind


@pytest_asyncio.fixture
async def stage(
    kind: str, make: MakeProcess, databases: TestDatabases, tmp_path: Path
) -> AsyncIterator[Stage]:
    database = "sqlite" if kind == "sqlite" else "postgresql"
    url = await databases.create(database, tmp_path, "streams")
    with _redis(kind, tmp_path) as redis:
        settings = {"REDIS_URL": redis.url} if redis else {}
        number = 1 if kind == "sqlite" else 2
        stage = Stage(url, [make(url, **settings) for _ in range(number)], redis)
        await stage.start()
        yield stage
        for server in stage.servers:
            server.close()


@contextmanager
def _redis(kind: str, folder: Path) -> Iterator[RedisServer | None]:
    if kind != "redis":
        yield None
        return
    with own_redis(folder) as redis:
        yield redis


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


# Servers that are replaced one after the other.


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
@pytest.mark.parametrize(("restarts", "number"), [(1, 40), pytest.param(20, 500, marks=full)])
async def test_servers_are_restarted_in_turns(
    stage: Stage, make: MakeProcess, restarts: int, number: int
) -> None:
    balancer = make(stage.url)
    ports = [str(server.port) for server in stage.servers]
    balancer.command = [sys.executable, str(BALANCER), str(balancer.port), *ports]
    await asyncio.to_thread(balancer.start)
    id, begun = uuid4(), list[float]()
    readers = [Reader(lambda: balancer.port, stage.token, f"drill/{id}") for _ in range(number)]
    stage.port = lambda: balancer.port  # type: ignore[method-assign]
    async with reading(readers):
        await stage.complete(id, readers)
        async with stage.writing(id, writers=2, pause=0.1, padding=100):
            for restart in range(restarts):
                server = stage.servers[restart % 2]
                begun.append(time.monotonic())
                assert await asyncio.to_thread(server.stop) == 0, server.output()
                await asyncio.to_thread(server.start)
        seconds = await stage.complete(id, readers)
    events = await stage.audit(id, readers)
    codes = Counter(code for reader in readers for code in reader.closed)
    print(
        f"\n{restarts} restarts, {number} readers, {events} events, complete after "
        f"{seconds:.2f} s; closed {dict(codes)}, answers {dict(stage.answers)}"
    )
    returns = sorted(moment for reader in readers for moment in reader.returns)
    for moment, following in itertools.pairwise([*begun, float("inf")]):
        after = [each - moment for each in returns if moment <= each < following]
        counts = Counter(int(each / BUCKET) for each in after)
        histogram = [counts[bucket] for bucket in range(max(counts, default=0) + 1)]
        print(f"{len(after)} came back, in each {BUCKET} s: {histogram}")
        assert max(counts.values(), default=0) <= max(10, len(after) / 2), "all at once"
    assert len(returns) >= restarts * number / 4, "the drill did not bite"
    assert set(codes) <= {4001}
    assert set(stage.answers) <= {204, 422}
