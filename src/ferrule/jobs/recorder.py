"""What became of attempts, stored together: each would be a transaction of its own else."""

import asyncio
from typing import NoReturn

import structlog

from ferrule.db.database import Database
from ferrule.db.failures import OutcomeUnknown
from ferrule.errors import Unavailable
from ferrule.jobs.queue import Outcome, record

AGAIN = 0.2
"""Seconds until the next attempt to reach the database."""

log = structlog.get_logger("ferrule.jobs")


class Recorder:
    """Stores outcomes; it does not give up, for nobody else knows them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._given = asyncio.Event()
        self._failing = False
        self._closed = True

    async def record(self, outcome: Outcome) -> None:
        """Return once it is stored, or its claim was found to be over."""
        if self._closed:
            log.warning("an outcome came too late: its lease will end", job=outcome.claimed.kind)
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, stored))
        self._given.set()
        await stored

    def close(self) -> None:
        """Keep nobody waiting any more; what was not stored is found when its lease has ended."""
        self._closed = True
        for _, stored in self._waiting:
            if not stored.done():
                stored.set_result(None)

    async def run(self) -> NoReturn:
        self._closed = False
        while True:
            await self._given.wait()
            self._given.clear()
            batch, self._waiting = self._waiting, []
            await self._store(batch)

    async def _store(self, batch: list[tuple[Outcome, asyncio.Future[None]]]) -> None:
        try:
            async with self._database.write() as session:
                await record(session, [outcome for outcome, _ in batch])
        except (Unavailable, OutcomeUnknown, OSError) as error:
            if not self._failing:
                log.warning("outcomes of jobs wait for the database", exc_info=error)
            self._failing = True
            self._waiting[:0] = batch
            await asyncio.sleep(AGAIN)
            self._given.set()
            return
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    await self._store([each])
                return
            # Its lease will end, and the attempt will count as one whose worker died.
            log.error("the outcome of a job cannot be stored", exc_info=error)
        self._failing = False
        for _, stored in batch:
            if not stored.done():
                stored.set_result(None)
