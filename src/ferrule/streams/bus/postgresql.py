"""The bus over PostgreSQL: NOTIFY on a connection of its own, for where there is no Redis."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import structlog

from ferrule.db.database import Database
from ferrule.streams.bus.inbox import Inbox
from ferrule.streams.bus.link import Link, end
from ferrule.streams.bus.outbox import Batch, Outbox

PART = 7900
"""Bytes of a batch in one notification, which takes 7,999 with what stands before."""
MAX_PARTS = 100
QUIET = 5.0
"""Seconds without a message after which the connection is asked for a sign of life."""
TIMEOUT = 2.0
FLUSH = 0.5
# Each statement is a transaction of its own, whose notifications arrive together.
NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) payload"
OF_SQLALCHEMY = ("prepared_statement_cache_size", "prepared_statement_name_func")

log = structlog.get_logger("ferrule.streams")
driver = cast(Any, asyncpg)


class PostgreSQLBus:
    """One connection past the pool, which listens and sends, outside of all transactions."""

    kind = "postgresql"

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._channel = f"{namespace}:bus"
        self._outbox = Outbox()

    def publish(self, message: bytes) -> None:
        self._outbox.put(message)

    @asynccontextmanager
    async def running(self, receive: Callable[[bytes], None]) -> AsyncGenerator[None]:
        link = Link(self.kind)
        task = asyncio.create_task(self._carry(link, Inbox(receive)), name="ferrule-bus")
        try:
            await link.tried(within=TIMEOUT)
            yield
            if not link.away:
                await self._outbox.emptied(within=FLUSH)
        finally:
            await end([task])

    async def _carry(self, link: Link, inbox: Inbox) -> NoReturn:
        while True:
            try:
                async with self._listening(inbox) as connection:
                    link.found("connection")
                    while True:
                        # Nothing to send is sent, too: a dead connection is noticed by it.
                        batches = await self._outbox.next(within=QUIET)
                        await self._notify(connection, batches)
                        self._outbox.sent()
            except Exception as error:
                await link.lost("connection", error)

    @asynccontextmanager
    async def _listening(self, inbox: Inbox) -> AsyncGenerator[Any]:
        _, options = self._database.engines.write.dialect.create_connect_args(self._database.url)
        for name in OF_SQLALCHEMY:
            options.pop(name, None)
        session = {
            "application_name": "ferrule bus",
            "statement_timeout": str(int(TIMEOUT * 1000)),
            "jit": "off",
        }
        connection = await driver.connect(
            **options, timeout=TIMEOUT, command_timeout=TIMEOUT, server_settings=session
        )
        parts = Parts(inbox)

        def heard(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            parts.take(payload)

        def ended(_connection: Any) -> None:
            self._outbox.wake()

        try:
            connection.add_termination_listener(ended)
            await connection.add_listener(self._channel, heard)
            yield connection
        finally:
            # Does not wait for a server that does not answer.
            connection.terminate()

    async def _notify(self, connection: Any, batches: Sequence[Batch]) -> None:
        payloads = [payload for batch in batches for payload in split(batch)]
        try:
            await connection.execute(NOTIFY, self._channel, payloads)
        except driver.DataError as error:
            # In a database of another encoding than UTF-8; it would fail for ever.
            log.error("hints were dropped", number=len(batches), reason=str(error))


def split(batch: Batch) -> Iterator[str]:
    """The notifications that make up a batch: id, place and number, and then a part of its text."""
    data = batch.data
    parts: list[str] = []
    start = 0
    while start < len(data):
        end = start + PART
        while end < len(data) and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        parts.append(data[start:end].decode())
        start = end
    for place, part in enumerate(parts):
        yield f"{batch.id} {place} {len(parts)}\n{part}"


class Parts:
    """Puts batches together again. The parts of one come one after another, or not all."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._id = ""
        self._parts: list[str] = []

    def take(self, payload: str) -> None:
        """Take a notification; what is none of ours is left."""
        head, _, part = payload.partition("\n")
        try:
            publisher, batch, *numbers = head.split(" ")
            place, number = map(int, numbers)
        except ValueError:
            return
        id = f"{publisher} {batch}"
        if place == 0:
            self._id, self._parts = id, []
        if id != self._id or place != len(self._parts) or number > MAX_PARTS:
            return
        self._parts.append(part)
        if len(self._parts) == number:
            self._inbox.take(id, "".join(self._parts).encode())
            self._id, self._parts = "", []
