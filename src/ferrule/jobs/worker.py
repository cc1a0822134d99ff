"""The worker: claims jobs, runs them, keeps its leases, and looks after the jobs of the dead."""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import structlog

from ferrule.db.database import Database
from ferrule.db.statements import Row
from ferrule.db.types import uuid7
from ferrule.errors import Error
from ferrule.jobs import queue, ticks
from ferrule.jobs.functions import JobFunction, JobFunctions
from ferrule.jobs.hint import Hint
from ferrule.jobs.metrics import JobMetrics
from ferrule.jobs.models import CANCELLED, COMPLETED, FAILED, QUEUED
from ferrule.jobs.queue import Claimed, Outcome
from ferrule.jobs.recorder import Recorder
from ferrule.jobs.requests import MAX_DELAY
from ferrule.jobs.run import JobFailed, Lost, Retry, Run, storable
from ferrule.jobs.settings import JobsSettings
from ferrule.jobs.threads import in_thread
from ferrule.kit import Kit
from ferrule.observability.rendering import request_id

LOOK = 0.4
"""Seconds between two looks at what was cancelled or lost, and at what is overdue."""
TIDY = 60.0
"""Seconds between two looks for jobs that were kept long enough, about."""
OWN_CONNECTIONS = 3
"""To PostgreSQL: for claims, for the heartbeat, for outcomes."""
SETTLE = 5.0
"""Seconds that jobs which are handed back get to end, and their outcome to be stored."""
TOGETHER = 0.003
"""Seconds that a free place may wait for others: a claim of several costs what one costs."""
AFTER_FAILURE = 0.5

T = TypeVar("T")

log = structlog.get_logger("ferrule.jobs")


@dataclass(eq=False)
class _Attempt:
    """A job that runs here.

    `renewed` is when its lease began; `why` it is being ended from outside; `ending` once it is
    too late for that.
    """

    claimed: Claimed
    run: Run
    renewed: float
    task: asyncio.Task[None] = field(init=False)
    why: Literal["cancelled", "stopped", "lost"] | None = None
    ending: bool = False
    told_at: float = 0.0

    def end(self, why: Literal["cancelled", "stopped", "lost"]) -> None:
        # Told again after a while, for a function that swallowed it; not while it tidies up.
        if not self.ending and time.monotonic() - self.told_at > SETTLE:
            self.why, self.told_at = self.why or why, time.monotonic()
            self.task.cancel()

    @property
    def key(self) -> tuple[UUID, int]:
        """The claim: a job may come back here before its old attempt has ended."""
        return self.claimed.id, self.claimed.epoch


class Worker:
    """Works on the declared jobs of an application, any number of workers on one database.

    `async with worker.running(): …` works until the block ends; `drain()` works off what is due.
    """

    def __init__(self, kit: Kit, *, concurrency: int | None = None) -> None:
        self.name = f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid7().hex[-8:]}"
        self._kit = kit
        self._settings = kit[JobsSettings]
        self._concurrency = concurrency or self._settings.concurrency
        self._database = kit[Database]
        self._functions = kit[JobFunctions]
        self._metrics = kit[JobMetrics]
        self._hint = kit[Hint]
        # Short of the whole by what passes until somebody looks.
        self._lease = max(self._settings.lease - 3 * LOOK, self._settings.lease / 2)
        self._attempts: dict[tuple[UUID, int], _Attempt] = {}
        # Connections that no job can take away, however many it holds.
        self._own = _own(kit)
        self._recorder = Recorder(self._own)
        self._stopping = False
        self._freed = asyncio.Event()
        self._last_key = ""
        self._looked = time.monotonic()
        self._failing: set[str] = set()

    @property
    def busy(self) -> int:
        """Jobs that run here, or whose outcome is being stored."""
        return len(self._attempts)

    @property
    def _free(self) -> int:
        """Places for more. What is only being stored takes none, within bounds."""
        ending = sum(each.ending for each in self._attempts.values())
        return self._concurrency - self.busy + min(ending, self._concurrency)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Work until the block ends; what runs then gets `grace` seconds and is handed back."""
        self._stopping = False
        self._looked = time.monotonic()
        claiming, *keeping = [
            asyncio.create_task(step, name=f"ferrule-jobs-{step.__name__}")
            for step in (
                self._claim_all(), self._hold(), self._watch(), self._keep(), self._recorder.run()
            )
        ]  # fmt: skip
        try:
            yield
        finally:
            self._stopping = True
            await self._hint.give()
            self._freed.set()
            await _ended((claiming,), within=SETTLE)
            await self._hand_back()
            await _ended(keeping, within=0)
            self._recorder.close()
            await self.close()

    async def drain(self) -> int:
        """Run what is due, and what that asks for, until nothing is; the number of attempts."""
        number = 0
        await self._adopt()
        recording = asyncio.create_task(self._recorder.run())
        try:
            while claimed := await self._claim():
                number += claimed
                await asyncio.wait([each.task for each in self._attempts.values()])
        finally:
            await _ended((recording,), within=0)
            await self.close()
        return number

    async def close(self) -> None:
        """Close the connections of its own; `running` and `drain` do it at their end."""
        if self._own is not self._database:
            await self._own.close()

    async def check(self) -> dict[str, int]:
        """For the health routes: that the worker turns."""
        if time.monotonic() - self._looked > self._settings.lease:
            raise RuntimeError("The worker does not turn.")
        return {"running": self.busy}

    # Claiming.

    async def _claim_all(self) -> None:
        while not self._stopping:
            free = self._free
            if not free:
                self._freed.clear()
                await self._freed.wait()
                # Jobs that were claimed together often end together.
                await asyncio.sleep(TOGETHER)
                continue
            begun = await self._guarded("claiming", self._claim)
            if begun is None:
                await asyncio.sleep(AFTER_FAILURE)
            elif begun < free:
                await self._hint.wait(self._settings.poll)

    async def _claim(self) -> int:
        """Begin jobs that are due, as many as there is room for; how many."""
        async with self._own.read() as session:
            levels = [row.priority for row in await session.fetch_all(queue.LEVELS)]
            rows = await session.fetch_all(queue.KEYS, after=self._last_key)
        walked = [row for row in rows if row.key is not None]
        self._last_key = walked[-1].key if len(walked) == queue.KEYS_AT_ONCE else ""
        # Among those of one priority nobody comes first by name.
        keys = random.sample([row for row in walked if row.due], k=sum(row.due for row in walked))
        keys.sort(key=lambda row: -row.priority)
        steps = [partial(self._claim_capped, keys), partial(self._claim_others, levels)]
        # Neither kind may keep the other waiting.
        random.shuffle(steps)
        return sum([await step() for step in steps])

    async def _claim_others(self, levels: list[int]) -> int:
        free = self._free
        if not levels or not free:
            return 0
        kinds = [name for name, each in self._functions.items() if each.concurrency is None]
        async with self._own.write() as session:
            claimed = await queue.claim(
                session, levels, kinds, owner=self.name, lease=self._lease, limit=free
            )
        self._start(claimed)
        return len(claimed)

    async def _claim_capped(self, keys: Sequence[Row]) -> int:
        begun = 0
        more: list[Row] = []
        for left, row in zip(range(len(keys), 0, -1), keys, strict=True):
            # No key takes all places while others wait.
            share = -(-self._free // left)
            number = await self._claim_key(row, share)
            begun += number
            if number == share:
                more.append(row)
        for row in more:
            begun += await self._claim_key(row, self._free)
        return begun

    async def _claim_key(self, row: Row, limit: int) -> int:
        function = self._functions.get(row.key.partition("/")[0])
        if function is None or not limit:
            return 0
        # One whose cap was taken away may still have keys.
        cap = function.concurrency or row.running + limit
        if row.running >= cap:
            return 0
        # A transaction each: who held the locks of several could wait for who holds others.
        async with self._own.write() as session:
            claimed = await queue.claim_capped(
                session, row.key, cap, owner=self.name, lease=self._lease, limit=limit
            )
        self._start(claimed)
        return len(claimed)

    # Running.

    def _start(self, claimed: list[Claimed]) -> None:
        for each in claimed:
            run = Run(each, self._database, self._kit, self._lease)
            attempt = _Attempt(each, run, renewed=time.monotonic())
            for other in self._attempts.values():
                if other.claimed.id == each.id:
                    other.end("lost")
            self._attempts[attempt.key] = attempt
            attempt.task = asyncio.create_task(self._work(attempt), name=f"ferrule-job-{each.kind}")

    async def _work(self, attempt: _Attempt) -> None:
        claimed = attempt.claimed
        request_id.set(claimed.request_id)
        structlog.contextvars.bind_contextvars(job_id=str(claimed.id), job=claimed.kind)
        started = time.perf_counter()
        try:
            outcome, stored = await self._outcome(attempt, self._functions[claimed.kind])
            self._let_end(attempt)
            if outcome is not None:
                if not stored:
                    await self._recorder.record(outcome)
                if outcome.status == COMPLETED:
                    log.info("job completed", attempt=claimed.attempts)
                self._metrics.ended(claimed.kind, outcome.status, time.perf_counter() - started)
        finally:
            del self._attempts[attempt.key]
            self._freed.set()
            if self._functions[claimed.kind].concurrency is not None:
                # The next one of its key has waited for this.
                await self._hint.give()

    async def _outcome(
        self, attempt: _Attempt, function: JobFunction[Any]
    ) -> tuple[Outcome | None, bool]:
        """What became of an attempt, and whether that is stored; None if the claim is over."""
        claimed, run = attempt.claimed, attempt.run
        deadline = asyncio.timeout(function.timeout)
        try:
            async with self._database.write(run.session) as session:
                try:
                    async with deadline:
                        result = await self._call(function, run)
                except Error as error:
                    # Even one that keeps what a request wrote: the next attempt writes it again.
                    await session.rollback()
                    raise _Refused(error) from error
                # Nothing ends it from outside in the middle of the COMMIT.
                self._let_end(attempt)
                done = Outcome(
                    claimed, COMPLETED, result=function.dump_result(result), **run.last_progress()
                )
                stored = run.session.begun
                if stored:
                    await queue.record(session, [done])
        except Lost:
            return self._lost(), False
        except _Refused as refused:
            return self._failure(attempt, function, refused.error, late=False), False
        except GeneratorExit:
            raise
        except BaseException as error:
            if attempt.why is None and attempt.task.cancelling():
                # The event loop ends, and with it whoever would store an outcome.
                raise
            # SystemExit, too: a job does not end the process.
            return self._failure(attempt, function, error, late=deadline.expired()), False
        return done, stored

    def _let_end(self, attempt: _Attempt) -> None:
        attempt.ending = True
        self._freed.set()

    async def _call(self, function: JobFunction[Any], run: Run) -> Any:
        data = function.load(run.claimed.payload)
        if function.blocking:
            return await in_thread(
                lambda: function(run, *data), name=f"ferrule-job-{function.name}"
            )
        return await function(run, *data)

    def _lost(self) -> None:
        log.warning("job lost: its lease ended, or it was ended elsewhere")

    def _failure(
        self, attempt: _Attempt, function: JobFunction[Any], error: BaseException, *, late: bool
    ) -> Outcome | None:
        claimed, shown = attempt.claimed, attempt.run.last_progress()
        if attempt.why == "lost":
            return self._lost()
        if attempt.why == "cancelled":
            log.info("job cancelled")
            return Outcome(claimed, CANCELLED, **shown)
        if attempt.why == "stopped":
            log.info("job handed back")
            return Outcome(claimed, QUEUED, charged=False, **shown)
        reason = f"It took longer than {function.timeout:g} s." if late else _told(error)
        if isinstance(error, JobFailed) or claimed.attempts >= claimed.max_attempts:
            log.error("job failed", attempt=claimed.attempts, reason=reason, exc_info=error)
            return Outcome(claimed, FAILED, error=reason, **shown)
        delay = function.retry_in(claimed.attempts)
        if isinstance(error, Retry) and error.after is not None:
            delay = min(max(error.after, 0), MAX_DELAY)
        log.warning(
            "job is tried again",
            attempt=claimed.attempts,
            reason=reason,
            seconds=round(delay, 1),
            exc_info=error,
        )
        return Outcome(claimed, QUEUED, error=reason, delay=delay, **shown)

    async def _hand_back(self) -> None:
        tasks = [each.task for each in self._attempts.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.grace)
        for attempt in list(self._attempts.values()):
            attempt.end("stopped")
        left = [each.task for each in self._attempts.values()]
        if left:
            _, late = await asyncio.wait(left, timeout=SETTLE)
            if late:
                log.warning("jobs did not end: their leases will", number=len(late))
            for task in late:
                task.cancel()

    # Keeping.

    async def _hold(self) -> None:
        """Heartbeat, and a look at what was cancelled or lost; nothing else may hold them up."""
        beat = 0.0
        while True:
            if time.monotonic() - beat >= self._settings.lease / 4:
                began = time.monotonic()
                if await self._guarded("heartbeat", self._beat) is not None:
                    beat = began
            await self._guarded("looking", self._look)
            self._looked = time.monotonic()
            await asyncio.sleep(LOOK)

    async def _watch(self) -> None:
        """Let go in time, though the database does not answer."""
        while not self._database.embedded:
            self._let_go()
            await asyncio.sleep(LOOK)

    async def _keep(self) -> None:
        """Progress, the jobs of dead workers, schedules, retention."""
        tidy = 0.0
        while True:
            await self._guarded("progress", self._store_progress)
            await self._guarded("reaping", self._reap)
            if not self._stopping:
                await self._guarded("schedules", self._tick)
            if time.monotonic() >= tidy:
                more = await self._guarded("tidying", self._tidy)
                tidy = time.monotonic() + (0 if more else TIDY * random.uniform(0.75, 1))  # noqa: S311
            await asyncio.sleep(LOOK)

    async def _beat(self) -> int:
        now, attempts = time.monotonic(), list(self._attempts.values())
        if attempts:
            ids = [each.claimed.id for each in attempts]
            async with self._own.write() as session:
                await queue.renew(session, self.name, ids, self._lease)
        for attempt in attempts:
            attempt.renewed = now
        return len(attempts)

    def _let_go(self) -> None:
        """End what others may have by now, as its lease was not renewed for so long."""
        for attempt in list(self._attempts.values()):
            if time.monotonic() - attempt.renewed > self._settings.lease:
                attempt.end("lost")

    async def _look(self) -> None:
        """End what was cancelled, and what this worker does not hold any more."""
        attempts = list(self._attempts.values())
        if not attempts:
            return
        async with self._own.read() as session:
            rows = await session.fetch_all(queue.HELD, owner=self.name)
        held: dict[Any, Any] = {(row.id, row.epoch): row.cancel for row in rows}
        for attempt in attempts:
            claim = (attempt.claimed.id, attempt.claimed.epoch)
            if claim not in held:
                attempt.end("lost")
            elif held[claim] is not None:
                attempt.end("cancelled")

    async def _store_progress(self) -> None:
        noted = [
            (each.claimed, *progress)
            for each in self._attempts.values()
            if (progress := each.run.take_progress()) is not None
        ]
        if noted:
            async with self._own.write() as session:
                await queue.record_progress(session, noted)

    async def _reap(self) -> None:
        async with self._own.read() as session:
            overdue = await session.fetch_one(queue.OVERDUE)
        if overdue is None or not overdue.number:
            return
        async with self._own.write() as session:
            reaped = await queue.reap(session)
        for id, kind, status in reaped:
            log.warning("job of a dead worker", job_id=str(id), job=kind, status=status)
            if status != QUEUED:
                self._metrics.ended(kind, status, None)
        await self._hint.give()

    async def _tick(self) -> None:
        if await ticks.tick(self._own, self._functions):
            await self._hint.give()

    async def _tidy(self) -> bool:
        """Remove a part of what was kept long enough; whether there may be more to do.

        And count those jobs, too, that were asked for when their function had no cap yet.
        """
        settings = self._settings
        async with self._own.write() as session:
            number = await queue.purge(session, (COMPLETED, CANCELLED), settings.keep)
        async with self._own.write() as session:
            number = max(number, await queue.purge(session, (FAILED,), settings.keep_failed))
        return max(number, await self._adopt()) == queue.TIDIED_AT_ONCE

    async def _adopt(self) -> int:
        capped = [name for name, each in self._functions.items() if each.concurrency is not None]
        if not capped:
            return 0
        async with self._own.write() as session:
            return await queue.adopt(session, capped)

    async def _guarded(self, step: str, do: Callable[[], Awaitable[T]]) -> T | None:
        """What a step returns, None if it failed, which is logged once until it succeeds again."""
        try:
            # A database that does not answer at all is out of reach, too.
            async with asyncio.timeout(self._settings.lease / 2):
                result = await do()
        except (Error, OSError) as error:
            if step not in self._failing:
                log.warning("worker waits for the database", step=step, exc_info=error)
            self._failing.add(step)
            return None
        except Exception as error:
            log.error("worker failed", step=step, exc_info=error)
            return None
        self._failing.discard(step)
        return result


class _Refused(Exception):
    """Carries an `Error` past the unit of work."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error


def _own(kit: Kit) -> Database:
    database = kit[Database]
    if database.embedded:
        return database
    # A worker that stands still while it claims or records would keep its jobs by their locks.
    own = {"pool_size": OWN_CONNECTIONS, "idle_timeout": kit[JobsSettings].lease}
    settings = database.settings.model_copy(update=own)
    return Database(database.url.render_as_string(hide_password=False), settings, kit)


async def _ended(tasks: Iterable[asyncio.Task[Any]], *, within: float) -> None:
    """Wait for tasks; those that go on longer than `within` seconds are cancelled."""
    tasks = list(tasks)
    if within:
        await asyncio.wait(tasks, timeout=within)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=SETTLE)


def _told(error: BaseException) -> str:
    """What the job's reader is told: never the text of an error that nobody wrote for them."""
    if isinstance(error, Error):
        return storable(str(error.detail))
    return storable(str(error)) if isinstance(error, JobFailed | Retry) else type(error).__name__
