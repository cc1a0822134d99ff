"""One contract for every bus, and what each does beside it."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from ferrule.db import Database
from ferrule.db.settings import DatabaseSettings
from ferrule.errors import ConfigurationError
from ferrule.kit import Kit
from ferrule.settings import Settings
from ferrule.streams.bus import Bus, open_bus, outbox
from ferrule.streams.bus.inbox import PUBLISHERS, Inbox
from ferrule.streams.bus.outbox import Batch, Outbox, pack, unpack
from ferrule.streams.bus.postgresql import PART, Parts, split
from ferrule.streams.bus.redis import RedisBus
from tests.server import environment
from tests.streams.brokers import Broker, RedisServer, own_redis, until

ACROSS = pytest.mark.parametrize("kind", ["redis", "postgresql"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


class Heard(list[bytes]):
    """What a bus has handed over."""

    @property
    def numbers(self) -> list[int]:
        return [int(message) for message in self]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a quarter."""
    for name, seconds in (
        ("redis.BLOCK", 0.25),
        ("redis.TIMEOUT", 0.5),
        ("postgresql.TIMEOUT", 0.5),
    ):
        monkeypatch.setattr(f"ferrule.streams.bus.{name}", seconds)


async def listen(stack: AsyncExitStack, bus: Bus) -> Heard:
    heard = Heard()
    await stack.enter_async_context(bus.running(heard.append))
    return heard


def _own_tasks() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return sorted(name for name in names if name.startswith("ferrule"))


async def test_everything_arrives_everywhere_once_and_in_order(broker: Broker, stack) -> None:
    buses = [broker.bus() for _ in range(3)]
    heard = [await listen(stack, bus) for bus in buses]
    expected = [b"%d %d" % (place, number) for number in range(50) for place in range(3)]
    for message in expected:
        buses[message[0] - ord("0")].publish(message)
        if message.endswith(b"7"):
            await asyncio.sleep(0)
    await until(lambda: all(len(each) >= 150 for each in heard[: len(set(buses))]))
    await asyncio.sleep(0.05)
    for each in heard:
        assert Counter(each) == Counter(expected)
        for place in b"0", b"1", b"2":
            mine = [message for message in each if message.startswith(place)]
            assert mine == [message for message in expected if message.startswith(place)]


@pytest.mark.parametrize(
    "message",
    [b"", b"\n", "ein Gruß aus 東京 🚲".encode(), b"x" * 100 * 1024, "🚲".encode() * 25_000],
    ids=["empty", "line", "unicode", "100 KiB", "100 KiB of unicode"],
)
async def test_any_text_arrives(broker: Broker, stack, message: bytes) -> None:
    bus = broker.bus()
    one, other = await listen(stack, broker.bus()), await listen(stack, bus)
    for each in (b"before", message, message, b"after"):
        bus.publish(each)
    await until(lambda: b"after" in one and b"after" in other)
    assert one == other == [b"before", message, message, b"after"]


async def test_a_burst_arrives(broker: Broker, stack) -> None:
    bus = broker.bus()
    heard = await listen(stack, broker.bus())
    await listen(stack, bus)
    for number in range(5000):
        bus.publish(b"%d" % number)
    await until(lambda: len(heard) >= 5000)
    assert heard.numbers == list(range(5000))


@pytest.mark.parametrize("message", [b"\xff", b"a\0b", b"x" * (outbox.MAX_MESSAGE + 1)])
async def test_what_cannot_be_carried_is_dropped(broker: Broker, stack, message: bytes) -> None:
    bus = broker.bus()
    heard = await listen(stack, bus)
    for each in (b"before", message, b"after"):
        bus.publish(each)
    await until(lambda: b"after" in heard)
    assert heard == [b"before", b"after"]


async def test_what_was_published_last_is_sent_and_nothing_runs_on(broker: Broker, stack) -> None:
    heard, bus = await listen(stack, broker.bus()), broker.bus()
    before = _own_tasks()
    async with bus.running(lambda message: None):
        bus.publish(b"the last")
        if broker.kind == "memory":
            await asyncio.sleep(0)
    await until(lambda: b"the last" in heard)
    assert _own_tasks() == before
    bus.publish(b"too late")


async def test_it_runs_again(broker: Broker, stack) -> None:
    bus = broker.bus()
    for number in range(2):
        async with AsyncExitStack() as once:
            heard = await listen(once, bus)
            bus.publish(b"%d" % number)
            await until(lambda heard=heard: heard)
            assert heard.numbers == [number]


async def test_applications_do_not_hear_each_other(broker: Broker, stack) -> None:
    if broker.kind == "memory":
        pytest.skip("is in one process")
    stranger = Broker(broker.kind, broker.url, f"{broker.namespace}-2", stack)
    heard, bus, other = await listen(stack, broker.bus()), broker.bus(), stranger.bus()
    await listen(stack, other)
    await listen(stack, bus)
    other.publish(b"not for you")
    await asyncio.sleep(0.1)
    bus.publish(b"for you")
    await until(lambda: heard)
    assert heard == [b"for you"]


class TestOutage:
    """The broker goes and comes back."""

    pytestmark = ACROSS

    async def test_nothing_is_lost_by_a_cut(self, broker: Broker, stack) -> None:
        proxy = await stack.enter_async_context(broker.proxy())
        bus, near = broker.bus(proxy), broker.bus()
        heard, others = await listen(stack, bus), await listen(stack, near)
        bus.publish(b"1")
        await until(lambda: len(heard) == len(others) == 1)
        proxy.cut()
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        for number in range(2, 102):
            bus.publish(b"%d" % number)
        assert time.perf_counter() - started < 0.1
        near.publish(b"1000")
        await until(lambda: 1000 in others.numbers)
        await asyncio.sleep(0.3)
        proxy.mend()
        await until(lambda: 101 in heard.numbers and 101 in others.numbers)
        ours = [*range(1, 102)]
        assert [number for number in others.numbers if number < 1000] == ours
        assert [number for number in heard.numbers if number < 1000] == ours
        # Redis keeps what was said meanwhile; PostgreSQL tells those who listen.
        assert (1000 in heard.numbers) == (broker.kind == "redis")

    async def test_silence_is_noticed(self, broker: Broker, stack, impatient) -> None:
        proxy = await stack.enter_async_context(broker.proxy())
        bus = broker.bus(proxy)
        heard = await listen(stack, bus)
        proxy.hold()
        bus.publish(b"1")
        await asyncio.sleep(0.2)
        assert heard == []
        # The connections that were swallowed say nothing any more, and are not missed.
        proxy.holding = False
        bus.publish(b"2")
        await until(lambda: len(heard) == 2)
        assert heard.numbers == [1, 2]

    async def test_what_is_sent_again_arrives_once(self, broker: Broker, stack) -> None:
        proxy = await stack.enter_async_context(broker.proxy())
        bus, near = broker.bus(proxy), broker.bus()
        heard, others = await listen(stack, bus), await listen(stack, near)
        bus.publish(b"1")
        await until(lambda: heard == others == [b"1"])
        proxy.mute()
        bus.publish(b"2")
        await until(lambda: others.numbers == [1, 2])
        # It does not know that, and says it again.
        proxy.mend()
        bus.publish(b"3")
        await until(lambda: 3 in heard.numbers and 3 in others.numbers)
        assert others.numbers == [1, 2, 3]
        assert heard.numbers in ([1, 2, 3], [1, 3])

    async def test_it_starts_without_a_broker(self, broker: Broker, stack, logged) -> None:
        proxy = await stack.enter_async_context(broker.proxy())
        proxy.cut()
        bus = broker.bus(proxy)
        started = time.perf_counter()
        heard = await listen(stack, bus)
        assert time.perf_counter() - started < 1.5
        bus.publish(b"1")
        await asyncio.sleep(1)
        proxy.mend()
        await until(lambda: heard)
        await until(lambda: len(logged) == 2)
        assert [line["event"] for line in logged] == ["the bus is away", "the bus is back"]

    async def test_it_ends_without_a_broker(self, broker: Broker, stack) -> None:
        proxy = await stack.enter_async_context(broker.proxy())
        bus = broker.bus(proxy)
        async with bus.running(lambda message: None):
            proxy.hold()
            bus.publish(b"1")
            await asyncio.sleep(0.05)
            started = time.perf_counter()
        assert time.perf_counter() - started < 1.5

    async def test_the_oldest_are_dropped(self, broker: Broker, stack, monkeypatch) -> None:
        monkeypatch.setattr(outbox, "MAX_WAITING", 100)
        monkeypatch.setattr(outbox, "MAX_BYTES", 1000)
        proxy = await stack.enter_async_context(broker.proxy())
        bus = broker.bus(proxy)
        heard = await listen(stack, bus)
        proxy.cut()
        for number in range(1000):
            bus.publish(b"%05d" % number)
        for number in range(1000, 1050):
            bus.publish(b"%020d" % number)
        await asyncio.sleep(0.1)
        for number in range(1050, 1100):
            bus.publish(b"%020d" % number)
        proxy.mend()
        await until(lambda: heard and heard.numbers[-1] == 1099)
        # What was about to be sent is sent; of the rest the newest, up to a thousand bytes.
        assert heard.numbers[-50:] == list(range(1050, 1100))
        assert len(heard) <= 200
        assert heard.numbers == sorted(heard.numbers)


class TestOwnRedis:
    """What is done to a Redis of our own."""

    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        with own_redis(tmp_path) as server:
            yield server

    async def test_flushed(self, redis: RedisServer, stack) -> None:
        one, other = RedisBus(redis.url, "a"), RedisBus(redis.url, "a")
        heard = await listen(stack, one)
        await listen(stack, other)
        for number in range(5):
            other.publish(b"%d" % number)
            await until(lambda number=number: len(heard) == number + 1)
            async with Redis.from_url(redis.url) as client:
                await client.flushall()
        assert heard.numbers == list(range(5))

    async def test_its_clock_was_set_back(self, redis: RedisServer, stack, impatient) -> None:
        bus = RedisBus(redis.url, "a")
        async with Redis.from_url(redis.url) as client:
            # The stream as it was before: its last id is far in the future.
            await client.xadd("a:bus", {"id": "x 1", "data": pack([b"1"])}, id="99999999999999-0")
            heard = await listen(stack, bus)
            await client.flushall()
            bus.publish(b"2")
            await until(lambda: heard)
        assert heard == [b"2"]

    async def test_killed_and_started_empty(self, redis: RedisServer, stack) -> None:
        one, other = RedisBus(redis.url, "a"), RedisBus(redis.url, "a")
        heard = await listen(stack, one)
        await listen(stack, other)
        other.publish(b"1")
        await until(lambda: heard)
        redis.kill()
        other.publish(b"2")
        await asyncio.sleep(0.3)
        redis.start()
        await until(lambda: len(heard) == 2)
        assert heard.numbers == [1, 2]

    async def test_stopped(self, redis: RedisServer, stack) -> None:
        bus = RedisBus(redis.url, "a")
        heard = await listen(stack, bus)
        redis.send(signal.SIGSTOP)
        try:
            for number in range(100):
                bus.publish(b"%d" % number)
            await asyncio.sleep(0.1)
            assert heard == []
        finally:
            redis.send(signal.SIGCONT)
        await until(lambda: len(heard) >= 100)
        assert heard.numbers == list(range(100))

    async def test_stopped_while_it_ends(self, redis: RedisServer) -> None:
        bus = RedisBus(redis.url, "a")
        async with bus.running(lambda message: None):
            redis.send(signal.SIGSTOP)
            bus.publish(b"1")
            started = time.perf_counter()
        assert time.perf_counter() - started < 2
        redis.send(signal.SIGCONT)

    async def test_the_stream_is_capped(self, redis: RedisServer, stack, monkeypatch) -> None:
        monkeypatch.setattr("ferrule.streams.bus.redis.KEPT", 100)
        bus = RedisBus(redis.url, "a")
        heard = await listen(stack, bus)
        for number in range(1000):
            bus.publish(b"%d" % number)
            if number % 10 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(heard) == 1000)
        async with Redis.from_url(redis.url) as client:
            assert await client.xlen("a:bus") < 300

    async def test_what_is_no_stream_is_left(self, redis: RedisServer, stack, logged) -> None:
        async with Redis.from_url(redis.url) as client:
            await client.set("a:bus", "something else")
            bus = RedisBus(redis.url, "a")
            heard = await listen(stack, bus)
            bus.publish(b"1")
            await asyncio.sleep(0.3)
            assert await client.get("a:bus") == b"something else"
            assert [line["event"] for line in logged] == ["the bus is away"]
            await client.delete("a:bus")
            await until(lambda: heard)


@ON_POSTGRESQL
async def test_postgresql_ends_the_connection(broker: Broker, stack) -> None:
    bus = broker.bus()
    heard = await listen(stack, bus)
    connection = await asyncpg.connect(broker.url)
    try:
        for number in range(3):
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ferrule bus' AND datname = current_database()"
            )
            assert len(ended) == 1
            await asyncio.sleep(0.05)
            bus.publish(b"%d" % number)
            await until(lambda number=number: len(heard) == number + 1)
    finally:
        await connection.close()
    assert heard.numbers == [0, 1, 2]


@ON_POSTGRESQL
async def test_notifications_of_others_are_left(broker: Broker, stack) -> None:
    bus = broker.bus()
    heard = await listen(stack, bus)
    connection = await asyncpg.connect(broker.url)
    try:
        for payload in (
            "",
            "a",
            "a b c d\n",
            "a 1 0 1\nno sizes",
            "a 2 1 2\n1\na",
            "a 3 0 1\n9\na",
        ):
            await connection.execute("SELECT pg_notify($1, $2)", f"{broker.namespace}:bus", payload)
    finally:
        await connection.close()
    bus.publish(b"1")
    await until(lambda: heard)
    assert heard == [b"1"]


class TestParts:
    """A batch in notifications."""

    @pytest.mark.parametrize("text", ["a", "🚲" * 10_000, "aé" * 20_000, "\n" * 20_000])
    def test_they_fit_and_are_put_together_again(self, text: str) -> None:
        batch = Batch("0123456789ab 123456789", pack([text.encode(), b"b"]))
        heard: list[bytes] = []
        parts = Parts(Inbox(heard.append))
        for payload in split(batch):
            assert len(payload.encode()) < 8000
            parts.take(payload)
        assert heard == [text.encode(), b"b"]

    def test_what_is_incomplete_is_left(self) -> None:
        heard: list[bytes] = []
        parts = Parts(Inbox(heard.append))
        first, second = [
            list(split(Batch(f"x {number}", pack([b"%d" % number * 2 * PART]))))
            for number in (1, 2)
        ]
        for payload in (*first[1:], *first[:2], *second):
            parts.take(payload)
        assert heard == [b"2" * 2 * PART]


class TestInbox:
    """What has arrived."""

    def test_a_batch_is_opened_once(self) -> None:
        heard: list[bytes] = []
        inbox = Inbox(heard.append)
        for number in (1, 2, 2, 1, 3, 2, 5, 4):
            inbox.take(f"a {number}", pack([b"%d" % number]))
        assert heard == [b"1", b"2", b"3", b"5"]

    def test_what_is_no_batch_is_left(self) -> None:
        heard: list[bytes] = []
        inbox = Inbox(heard.append)
        for id, data in (("", b""), ("a", b"1\na"), ("a x", b"1\na"), ("a 1", b"2\na")):
            inbox.take(id, data)
        inbox.take("a 1", pack([b"1"]))
        assert heard == [b"1"]

    def test_it_remembers_the_publishers_at_work(self) -> None:
        heard: list[bytes] = []
        inbox = Inbox(heard.append)
        for number in range(1, 3 * PUBLISHERS):
            inbox.take(f"{number} 1", pack([b"x"]))
            inbox.take(f"busy {number}", pack([b"y"]))
        inbox.take(f"busy {3 * PUBLISHERS - 1}", pack([b"again"]))
        assert b"again" not in heard
        inbox.take("1 1", pack([b"forgotten"]))
        assert b"forgotten" in heard


class TestOutbox:
    """What waits to be sent."""

    async def test_it_is_the_same_until_it_is_sent(self) -> None:
        waiting = Outbox()
        waiting.put(b"1")
        (first,) = await waiting.next(within=1)
        waiting.put(b"2")
        assert await waiting.next(within=1) == [first]
        waiting.sent()
        (second,) = await waiting.next(within=1)
        assert (unpack(first.data), unpack(second.data)) == ([b"1"], [b"2"])
        assert first.id.split()[0] == second.id.split()[0]
        assert [first.id.split()[1], second.id.split()[1]] == ["1", "2"]
        waiting.sent()
        assert await waiting.next(within=0.01) == []

    async def test_long_messages_travel_alone(self) -> None:
        waiting = Outbox()
        for size in (10, outbox.BATCH + 1, 10, outbox.BATCH - 10, 1, 10):
            waiting.put(b"x" * size)
        batches = await waiting.next(within=1)
        sizes = [[len(message) for message in unpack(batch.data)] for batch in batches]
        assert sizes == [[10], [outbox.BATCH + 1], [10, outbox.BATCH - 10], [1, 10]]


class TestOpening:
    """Which bus an application has."""

    async def opened(self, url: str, **values: object) -> Bus:
        database = Database(url, DatabaseSettings(pooler=bool(values.pop("pooler", False))), Kit())
        try:
            return open_bus(Settings(_env_file=None, **values), database)  # type: ignore[call-arg]
        finally:
            await database.close()

    async def test_it_follows_the_settings(self, tmp_path: Path) -> None:
        sqlite, postgresql = f"sqlite:///{tmp_path}/a.db", "postgresql://127.0.0.1:1/none"
        redis = SecretStr("redis://127.0.0.1:1/0")
        assert (await self.opened(sqlite)).kind == "memory"
        assert (await self.opened(postgresql)).kind == "postgresql"
        assert (await self.opened(sqlite, redis_url=redis)).kind == "redis"
        assert (await self.opened(postgresql, redis_url=redis)).kind == "redis"
        assert (await self.opened(postgresql, redis_url=redis, pooler=True)).kind == "redis"

    def test_drivers_are_loaded_when_they_are_needed(self) -> None:
        loaded = "{'redis', 'asyncpg'} & {*sys.modules}"
        code = f"import sys, ferrule; ferrule.create_app(); print({loaded})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
        assert done.stdout.decode().strip() == "set()", done.stderr.decode()

    async def test_behind_a_pooler_there_is_none(self, stack, logged) -> None:
        bus = await self.opened("postgresql://127.0.0.1:1/none", pooler=True)
        assert bus.kind == "none"
        heard = await listen(stack, bus)
        bus.publish(b"1")
        await asyncio.sleep(0.01)
        assert heard == []
        assert "FERRULE_REDIS_URL" in logged[0]["event"]

    async def test_what_is_no_url_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="FERRULE_REDIS_URL") as refused:
            await self.opened(f"sqlite:///{tmp_path}/a.db", redis_url=SecretStr("http://u:pass@h"))
        assert "pass" not in str(refused.value)
