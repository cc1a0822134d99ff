"""Retention: events that are older than their kind is kept, and those beyond its number, go."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import structlog
from sqlalchemy import delete, func, select, update

from ferrule.db.database import Database
from ferrule.db.session import WriteSession
from ferrule.db.types import utcnow
from ferrule.errors import Error
from ferrule.streams.channels import Channel, Channels
from ferrule.streams.log import EVENTS, STREAMS, Appended

EACH = 60.0
"""Seconds between two looks for what is too old, about."""
SLACK = 1.1
"""How far a stream goes beyond its number of events before it is trimmed."""
AT_ONCE = 1000
"""Events that are removed in one transaction."""
STREAMS_AT_ONCE = 50

log = structlog.get_logger("ferrule.streams")


class Retention:
    """Trims streams, a little at a time: a transaction that removes much holds up the others."""

    def __init__(self, database: Database, channels: Channels) -> None:
        self._database = database
        self._channels = channels
        self._long: set[str] = set()

    def noted(self, appended: Sequence[Appended]) -> None:
        """Look at the lengths of streams that grew."""
        for each in appended:
            length = each.events[-1].offset - each.floor
            if length > self._channels.of(each.stream).keep_events * SLACK:
                self._long.add(each.stream)

    async def run(self) -> NoReturn:
        while True:
            await asyncio.sleep(EACH * random.uniform(0.75, 1))  # noqa: S311
            try:
                await self.trim()
            except (Error, OSError) as error:
                log.warning("retention waits for the database", reason=type(error).__name__)
            except Exception as error:
                log.error("retention failed", exc_info=error)

    async def trim(self) -> int:
        """Remove what need not be kept; the number of events that are gone."""
        removed = 0
        while self._long:
            removed += await self._trim_long(self._long.pop())
        for channel in self._channels:
            removed += await self._trim_old(channel)
        return removed

    async def _trim_long(self, name: str) -> int:
        keep = self._channels.of(name).keep_events
        removed = 0
        while True:
            async with self._database.write() as session:
                head = await _locked(session, STREAMS.c.name == name)
                if head is None or head.top - head.floor <= keep:
                    return removed
                floor = min(head.top - keep, head.floor + AT_ONCE)
                removed += await _raise_floor(session, head, floor)

    async def _trim_old(self, channel: Channel) -> int:
        """Trim the streams of a kind that have events from before its time."""
        removed, after = 0, 0
        before = utcnow() - timedelta(days=channel.keep_days)
        old = (
            select(STREAMS.c.id)
            .where(STREAMS.c.kind == channel.kind, STREAMS.c.oldest_at < before)
            .order_by(STREAMS.c.id)
            .limit(STREAMS_AT_ONCE)
        )
        while True:
            async with self._database.read() as session:
                ids = (await session.execute(old.where(STREAMS.c.id > after))).scalars().all()
            for id in ids:
                while True:
                    async with self._database.write() as session:
                        gone = await self._trim_stream(session, id, before)
                    removed += gone
                    if gone < AT_ONCE:
                        break
            if len(ids) < STREAMS_AT_ONCE:
                return removed
            # Each once, also if its clock went back and nothing could be removed.
            after = ids[-1]

    async def _trim_stream(self, session: WriteSession, id: int, before: datetime) -> int:
        head = await _locked(session, STREAMS.c.id == id)
        if head is None:
            return 0
        if head.floor == head.top:
            # It may have been emptied a moment ago.
            return await _forget(session, head) if head.oldest_at < before else 0
        # By the last one that is old: where a clock went back, those before it are no younger.
        last = select(func.max(EVENTS.c.offset)).where(
            EVENTS.c.stream_id == id, EVENTS.c.at < before
        )
        old = await session.scalar(last)
        floor = head.floor if old is None else min(old, head.floor + AT_ONCE)
        return await _raise_floor(session, head, floor)


async def _locked(session: WriteSession, which: Any) -> Any:
    """A stream's head, which nobody appends to until the transaction ends."""
    return (await session.execute(select(STREAMS).where(which).with_for_update())).one_or_none()


async def _raise_floor(session: WriteSession, head: Any, floor: int) -> int:
    """Remove the events up to the new floor; how many they were."""
    events = EVENTS.c.stream_id == head.id
    gone = await session.execute(delete(EVENTS).where(events, EVENTS.c.offset <= floor))
    oldest = await session.scalar(select(func.min(EVENTS.c.at)).where(events))
    await session.execute(
        update(STREAMS)
        .where(STREAMS.c.id == head.id)
        .values(floor=max(floor, head.floor), oldest_at=oldest or utcnow())
    )
    return gone.rowcount


async def _forget(session: WriteSession, head: Any) -> int:
    """Remove a stream that has had no event for as long again as its events were kept.

    Its readers know what happened until then; who writes to it again begins another one, with an
    epoch of its own.
    """
    await session.execute(delete(STREAMS).where(STREAMS.c.id == head.id))
    return 0
