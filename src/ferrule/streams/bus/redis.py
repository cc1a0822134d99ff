"""The bus over Redis: one capped stream per application, so that a node resumes after a blip."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ferrule.errors import ConfigurationError
from ferrule.streams.bus.inbox import Inbox
from ferrule.streams.bus.link import Link, end
from ferrule.streams.bus.outbox import Batch, Outbox

KEPT = 2000
"""Batches of up to 32 KiB, mostly, that the stream keeps, about: the log has what was missed."""
AT_ONCE = 50
"""Batches that are read at once."""
BLOCK = 1.0
"""Seconds that a read waits for what comes."""
TIMEOUT = 2.0
"""Seconds after which Redis does not answer; more than a read waits."""
FLUSH = 0.5
START = b"0-0"


class RedisBus:
    """Two connections of its own: one that reads and waits, one that sends."""

    kind = "redis"

    def __init__(self, url: str, namespace: str) -> None:
        try:
            parse_url(url)
        except ValueError:
            raise ConfigurationError(
                "FERRULE_REDIS_URL is not the URL of a Redis: write redis://host:6379/0."
            ) from None
        self._url = url
        self._key = f"{namespace}:bus"
        self._outbox = Outbox()

    def publish(self, message: bytes) -> None:
        self._outbox.put(message)

    @asynccontextmanager
    async def running(self, receive: Callable[[bytes], None]) -> AsyncGenerator[None]:
        link = Link(self.kind)
        tasks = [
            asyncio.create_task(self._read(link, Inbox(receive)), name="ferrule-bus-read"),
            asyncio.create_task(self._send(link), name="ferrule-bus-send"),
        ]
        try:
            await link.tried(within=TIMEOUT)
            yield
            if not link.away:
                await self._outbox.emptied(within=FLUSH)
        finally:
            await end(tasks)

    async def _send(self, link: Link) -> NoReturn:
        # Not before it is known where to read from, or what is sent would not be heard here.
        await link.reached.wait()
        while True:
            try:
                async with self._connection() as redis:
                    while True:
                        if batches := await self._outbox.next(within=60):
                            await self._add(redis, batches)
                            self._outbox.sent()
                            link.found("send")
            except Exception as error:
                await link.lost("send", error)

    async def _read(self, link: Link, inbox: Inbox) -> NoReturn:
        last: bytes | None = None
        while True:
            try:
                async with self._connection() as redis:
                    last = await self._position(redis, last)
                    link.found("read")
                    while True:
                        entries = await self._entries(redis, last)
                        for id, fields in entries:
                            last = id
                            inbox.take(fields.get(b"id", b"").decode(), fields.get(b"data", b""))
                        if not entries:
                            last = await self._position(redis, last)
            except Exception as error:
                await link.lost("read", error)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        redis = cast(Any, Redis).from_url(
            self._url,
            single_connection_client=True,
            # With the newer protocol a server may relax the timeouts.
            protocol=2,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            # By default each command is tried eleven times, each time with the whole timeout.
            retry=Retry(NoBackoff(), 0),
        )
        try:
            yield redis
        finally:
            await redis.aclose()

    async def _add(self, redis: Any, batches: Sequence[Batch]) -> None:
        # Several in a transaction: what failed is sent again, which must be all or nothing.
        pipeline = redis.pipeline(transaction=len(batches) > 1)
        for batch in batches:
            fields = {"id": batch.id, "data": batch.data}
            pipeline.xadd(self._key, fields, maxlen=KEPT, approximate=True)
        await pipeline.execute()

    async def _entries(self, redis: Any, last: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found = await redis.xread({self._key: last}, count=AT_ONCE, block=int(BLOCK * 1000))
        return found[0][1] if found else []

    async def _position(self, redis: Any, last: bytes | None) -> bytes:
        """Where to read on: at the end, or where it was left.

        A stream that ends before that is another one: it was flushed, or its data was lost. Its ids
        follow the clock of Redis, which may have been set back.
        """
        try:
            newest: bytes = (await redis.xinfo_stream(self._key))["last-generated-id"]
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            newest = START
        if last is None:
            return newest
        return START if _order(newest) < _order(last) else last


def _order(id: bytes) -> tuple[int, ...]:
    return tuple(map(int, id.split(b"-")))
