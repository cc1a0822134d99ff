"""The worker: claims jobs, runs them, keeps its leases, and looks after the jobs of the dead."""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import structlog

from ferrule.db.database import Database
from ferrule.db.types import uuid7
from ferrule.errors import Error
from ferrule.jobs import queue, ticks
from ferrule.jobs.functions import JobFunction, JobFunctions
from ferrule.jobs.hint import Hint
from ferrule.jobs.metrics import JobMetrics
from ferrule.jobs.models import CANCELLED, COMPLETED, FAILED, QUEUED
from ferrule.jobs.queue import Claimed, Outcome
from ferrule.jobs.recorder import Recorder
from ferrule.jobs.run import JobFailed, Lost, Retry, Run, storable
from ferrule.jobs.settings import JobsSettings
from ferrule.jobs.threads import in_thread
from ferrule.kit import Kit
from ferrule.observability.rendering import request_id

LOOK = 0.4
"""Seconds between two looks at what was cancelled or lost, and at what is overdue."""
PURGE = 60.0
"""Seconds between two looks for jobs that were kept long enough, about."""
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

    def end(self, why: Literal["cancelled", "stopped", "lost"]) -> None:
        if self.why is None and not self.ending:
            self.why = why
            self.task.cancel()


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
        self._attempts: dict[Any, _Attempt] = {}
        self._recorder = Recorder(self._database)
        self._stopping = False
        self._freed = asyncio.Event()
        self._last_key = ""
        self._looked = time.monotonic()
        self._failing: set[str] = set()

    @property
    def busy(self) -> int:
        """Jobs that run here."""
        return len(self._attempts)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Work until the block ends; what runs then gets `grace` seconds and is handed back."""
        self._stopping = False
        self._looked = time.monotonic()
        recording = asyncio.create_task(self._recorder.run(), name="ferrule-jobs-recorder")
        keeping = asyncio.create_task(self._keep(), name="ferrule-jobs-keeper")
        claiming = asyncio.create_task(self._claim_all(), name="ferrule-jobs-claims")
        try:
            yield
        finally:
            self._stopping = True
            await self._hint.give()
            self._freed.set()
            await claiming
            await self._hand_back()
            for task in (keeping, recording):
                task.cancel()
            await asyncio.wait((keeping, recording))

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
            recording.cancel()
            await asyncio.wait((recording,))
        return number

    async def check(self) -> dict[str, int]:
        """For the health routes: that the worker turns."""
        if time.monotonic() - self._looked > self._settings.lease:
            raise RuntimeError("The worker does not turn.")
        return {"running": self.busy}

    # Claiming.

    async def _claim_all(self) -> None:
        while not self._stopping:
            free = self._concurrency - self.busy
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
        async with self._database.read() as session:
            levels = [row.priority for row in await session.fetch_all(queue.LEVELS)]
            rows = await session.fetch_all(queue.KEYS, after=self._last_key)
        keys = [(row.key, row.running) for row in rows]
        self._last_key = keys[-1][0] if len(keys) == queue.KEYS_AT_ONCE else ""
        steps = [partial(self._claim_capped, keys), partial(self._claim_others, levels)]
        # Neither kind may keep the other waiting.
        random.shuffle(steps)
        return sum([await step() for step in steps])

    async def _claim_others(self, levels: list[int]) -> int:
        free = self._concurrency - self.busy
        if not levels or not free:
            return 0
        kinds = [name for name, each in self._functions.items() if each.concurrency is None]
        async with self._database.write() as session:
            claimed = await queue.claim(
                session, levels, kinds, owner=self.name, lease=self._lease, limit=free
            )
        self._start(claimed)
        return len(claimed)

    async def _claim_capped(self, keys: list[tuple[str, int]]) -> int:
        begun = 0
        for key, running in keys:
            function = self._functions.get(key.partition("/")[0])
            free = self._concurrency - self.busy
            if function is None or not free:
                continue
            # One whose cap was taken away may still have keys.
            cap = function.concurrency or running + free
            if running >= cap:
                continue
            # A transaction each: who held the locks of several could wait for who holds others.
            async with self._database.write() as session:
                claimed = await queue.claim_capped(
                    session, key, cap, owner=self.name, lease=self._lease, limit=free
                )
            self._start(claimed)
            begun += len(claimed)
        return begun

    # Running.

    def _start(self, claimed: list[Claimed]) -> None:
        for each in claimed:
            run = Run(each, self._database, self._kit, self._lease)
            attempt = _Attempt(each, run, renewed=time.monotonic())
            self._attempts[each.id] = attempt
            attempt.task = asyncio.create_task(self._work(attempt), name=f"ferrule-job-{each.kind}")

    async def _work(self, attempt: _Attempt) -> None:
        claimed = attempt.claimed
        request_id.set(claimed.request_id)
        structlog.contextvars.bind_contextvars(job_id=str(claimed.id), job=claimed.kind)
        started = time.perf_counter()
        try:
            outcome, stored = await self._outcome(attempt, self._functions[claimed.kind])
            attempt.ending = True
            if outcome is not None:
                if not stored:
                    await self._recorder.record(outcome)
                if outcome.status == COMPLETED:
                    log.info("job completed", attempt=claimed.attempts)
                self._metrics.ended(claimed.kind, outcome.status, time.perf_counter() - started)
        finally:
            del self._attempts[claimed.id]
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
                async with deadline:
                    result = await self._call(function, run)
                # Nothing ends it from outside in the middle of the COMMIT.
                attempt.ending = True
                done = Outcome(
                    claimed, COMPLETED, result=function.dump_result(result), **run.last_progress()
                )
                stored = run.session.begun
                if stored:
                    await queue.record(session, [done])
        except Lost:
            return self._lost(), False
        except (Exception, asyncio.CancelledError) as error:
            return self._failure(attempt, function, error, late=deadline.expired()), False
        return done, stored

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
            delay = error.after
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

    async def _keep(self) -> None:
        """Heartbeat, cancellation, progress, the jobs of dead workers, schedules, retention."""
        beat = purge = 0.0
        while True:
            now = time.monotonic()
            if now - beat >= self._settings.lease / 4:
                if await self._guarded("heartbeat", self._beat) is not None:
                    beat = now
                elif not self._database.embedded:
                    self._let_go()
            await self._guarded("looking", self._look)
            await self._guarded("progress", self._store_progress)
            await self._guarded("reaping", self._reap)
            if not self._stopping:
                await self._guarded("schedules", self._tick)
            if now - purge >= PURGE:
                purge = now - random.uniform(0, PURGE / 4)  # noqa: S311
                await self._guarded("retention", self._purge)
                await self._guarded("caps", self._adopt)
            self._looked = time.monotonic()
            await asyncio.sleep(LOOK)

    async def _beat(self) -> int:
        now, attempts = time.monotonic(), list(self._attempts.values())
        if attempts:
            ids = [each.claimed.id for each in attempts]
            async with self._database.write() as session:
                await queue.renew(session, self.name, ids, self._lease)
        for attempt in attempts:
            attempt.renewed = now
        return len(attempts)

    def _let_go(self) -> None:
        """End what others may have by now, as the database could not be asked for so long."""
        for attempt in list(self._attempts.values()):
            if time.monotonic() - attempt.renewed > self._settings.lease:
                attempt.end("lost")

    async def _look(self) -> None:
        """End what was cancelled, and what this worker does not hold any more."""
        attempts = list(self._attempts.values())
        if not attempts:
            return
        async with self._database.read() as session:
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
            async with self._database.write() as session:
                await queue.record_progress(session, noted)

    async def _reap(self) -> None:
        async with self._database.read() as session:
            overdue = await session.fetch_one(queue.OVERDUE)
        if overdue is None or not overdue.number:
            return
        async with self._database.write() as session:
            reaped = await queue.reap(session)
        for id, kind, status in reaped:
            log.warning("job of a dead worker", job_id=str(id), job=kind, status=status)
            if status != QUEUED:
                self._metrics.ended(kind, status, None)
        await self._hint.give()

    async def _tick(self) -> None:
        if await ticks.tick(self._database, self._functions):
            await self._hint.give()

    async def _purge(self) -> None:
        settings = self._settings
        for statuses, days in (
            ((COMPLETED, CANCELLED), settings.keep),
            ((FAILED,), settings.keep_failed),
        ):
            removed = queue.PURGED_AT_ONCE
            while removed == queue.PURGED_AT_ONCE:
                async with self._database.write() as session:
                    removed = await queue.purge(session, statuses, days)

    async def _adopt(self) -> None:
        """Count the jobs, too, that were asked for when their function had no cap yet."""
        capped = [name for name, each in self._functions.items() if each.concurrency is not None]
        if capped:
            async with self._database.write() as session:
                await queue.adopt(session, capped)

    async def _guarded(self, step: str, do: Callable[[], Awaitable[T]]) -> T | None:
        """What a step returns, None if it failed, which is logged once until it succeeds again."""
        try:
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


def _told(error: BaseException) -> str:
    """What the job's reader is told: never the text of an error that nobody wrote for them."""
    if isinstance(error, Error):
        return storable(str(error.detail))
    return storable(str(error)) if isinstance(error, JobFailed | Retry) else type(error).__name__
