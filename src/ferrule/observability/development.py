"""Warnings in development: of a blocked event loop, and of many queries in a request.

Production imports nothing of this.
"""

import asyncio
import inspect
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

import greenlet  # pyright: ignore[reportMissingTypeStubs]
import structlog
from sqlalchemy import event
from starlette.types import ASGIApp, Receive, Scope, Send

from ferrule.db import Database, Prebuilt
from ferrule.db.statements import Driver, Rows
from ferrule.observability.places import Place, chain, nearest_place, own_place, place_of
from ferrule.observability.settings import ObservabilitySettings

QUIET = 10.0
"""Seconds in which a place that blocks the loop is told of once."""
LONG = 5.0
"""Seconds after which a loop that is still blocked is told of: it may never be free again."""
ASLEEP = 0.25
"""Seconds by which the watch is late, with nothing computed, if the process or machine slept."""
DEBUGGERS = ("bdb", "pydevd")
"""Modules that hold a thread because somebody looks at it."""
AWAIT = "Await what waits; hand what computes to a thread: await asyncio.to_thread(function)."
TOGETHER = (
    "Load what belongs together in one statement: see "
    "docs/how-to/relationships-without-n-plus-one.md."
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("ferrule.development")
_counted: ContextVar["Counter[Place | None] | None"] = ContextVar("counted", default=None)
"""The statements of the request by the place that asked for them; None: no place of its own."""


@asynccontextmanager
async def watched(database: Database, settings: ObservabilitySettings) -> AsyncGenerator[None]:
    """Watch the running event loop, and count the statements of this database, until the end."""
    if settings.max_queries:
        _count(database)
    if not settings.slow_callback:
        yield
        return
    watch = LoopWatch(settings.slow_callback)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class QueryWatch:
    """ASGI, around the edge: warns of a request that runs more than `limit` statements."""

    def __init__(self, app: ASGIApp, *, template: Callable[[Scope], str], limit: int) -> None:
        self._app = app
        self._template = template
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted: Counter[Place | None] = Counter()
        token = _counted.set(counted)
        try:
            await self._app(scope, receive, send)
        finally:
            _counted.reset(token)
            if counted.total() > self._limit:
                self._warn(scope, counted)

    def _warn(self, scope: Scope, counted: "Counter[Place | None]") -> None:
        ((place, most),) = counted.most_common(1)
        # What is stored at the end of a unit of work is nobody's line: it is the endpoint's.
        if place is None and "endpoint" in scope:
            place = place_of(scope["endpoint"])
        route = scope.get("ferrule.route") or self._template(scope)
        _log.warning(
            "many queries in a request",
            route=f"{scope['method']} {route}",
            queries=counted.total(),
            place=place and str(place),
            queries_there=most,
            hint=TOGETHER,
            request_id=scope.get("ferrule.request_id"),
        )


def _count(database: Database) -> None:
    engines = database.engines
    event.listen(engines.write.sync_engine, "before_cursor_execute", _executed)
    # An engine made of the other one by options has its pool and its events.
    if engines.read.sync_engine.pool is not engines.write.sync_engine.pool:
        event.listen(engines.read.sync_engine, "before_cursor_execute", _executed)
    database.engines = replace(engines, driver=_Counting(engines.driver))


def _executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    # On SQLite alone a transaction begins with a statement of our own.
    if not statement.startswith("BEGIN"):
        _counts()


def _counts(statements: int = 1) -> None:
    counted = _counted.get()
    if counted is not None:
        counted[own_place(_stack())] += statements


def _stack() -> Iterator[FrameType]:
    """The frames of this thread up to the watch of the request, or to the event loop."""
    current: Any = greenlet.getcurrent()
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        for each in chain(frame):
            if each.f_code in _OUTERMOST:
                return
            yield each
        # The stack of a greenlet, in which SQLAlchemy runs, ends where it was entered.
        current = current.parent
        frame = current and current.gr_frame


_OUTERMOST = (QueryWatch.__call__.__code__, asyncio.Runner.run.__code__)


class _Counting:
    """A driver that counts the statements of another."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def fetch(self, statement: Prebuilt, values: Mapping[str, Any]) -> Rows:
        _counts()
        return await self._driver.fetch(statement, values)

    async def write(
        self, writes: Sequence[tuple[Prebuilt, Mapping[str, Any]]]
    ) -> list[Sequence[Any]]:
        _counts(len(writes))
        return await self._driver.write(writes)

    async def close(self) -> None:
        await self._driver.close()


@dataclass
class _Held:
    """A callback that has the loop, told by its outermost frame; `seen` is where it was at work."""

    outermost: FrameType
    since: float
    seen: Counter[Place] = field(default_factory=Counter[Place])
    told: bool = False


class LoopWatch:
    """Warns when one callback holds the event loop for longer than `limit` seconds.

    A thread asks the loop for a sign of life, and looks at the loop's stack until it comes.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._pause, self._step = max(limit / 4, 0.005), max(limit / 10, 0.002)
        self._told: dict[tuple[str, str], float] = {}
        self._stopped = threading.Event()
        self._answered = threading.Event()
        self._answered.set()
        self._caller: CodeType | None = None
        self._thread = threading.Thread(target=self._run, name="ferrule-loop-watch", daemon=True)

    def start(self) -> None:
        """Watch the loop that runs in this thread."""
        self._loop = asyncio.get_running_loop()
        self._of_loop = threading.get_ident()
        self._greenlet: Any = greenlet.getcurrent()
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end, and wait for it."""
        self._stopped.set()
        self._answered.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        held: _Held | None = None
        before, computed = time.monotonic(), time.process_time()
        while not (self._stopped.is_set() or self._loop.is_closed()):
            asked = not self._answered.is_set() and self._loop.is_running()
            wait = self._step if asked else self._pause
            (self._answered if asked else self._stopped).wait(wait)
            now, computing = time.monotonic(), time.process_time()
            late, busy = now - before - wait, computing - computed
            slept = late > ASLEEP and busy < late / 20
            if slept or not self._loop.is_running():
                held = None
            else:
                # A callback that computes, and lets no other thread run, makes this one late.
                delayed = late > self._limit / 2 and busy > late / 5
                frames = self._frames() if delayed or not self._answered.is_set() else []
                held = self._followed(held, frames, before, now)
            if not asked:
                self._ask()
            before, computed = now, computing
        # When a thread ends, greenlet takes a reference to its main greenlet for a leak and drops
        # it if gc.get_referrers does not find who holds it, as with what was frozen.
        self._greenlet = None

    def _ask(self) -> None:
        if self._answered.is_set():
            self._answered.clear()
            # Closed at this very moment, by who never stopped the application.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        # Who calls this calls every callback.
        self._caller = sys._getframe(1).f_code  # pyright: ignore[reportPrivateUsage]
        self._answered.set()

    def _followed(
        self, held: _Held | None, frames: list[FrameType], before: float, now: float
    ) -> _Held | None:
        """The callback that has the loop, after one more look; tells of one that let it go."""
        if held is not None and (not frames or frames[-1] is not held.outermost):
            self._tell("event loop was blocked", held, now)
            held = None
        if frames:
            held = held or _Held(frames[-1], since=before)
            held.seen[nearest_place(frames)] += 1
            if now - held.since > LONG:
                self._tell("event loop is blocked", held, now)
        return held

    def _frames(self) -> list[FrameType]:
        """Those of the callback that runs, the innermost first; none while the loop waits."""
        frames: list[FrameType] = []
        # Where a greenlet runs, who entered it is suspended.
        for start in (_frame_of(self._of_loop), self._greenlet.gr_frame):
            for frame in chain(start):
                if frame.f_code is self._caller:
                    return frames
                if frame.f_globals.get("__name__") in DEBUGGERS:
                    return []
                frames.append(frame)
        return []

    def _tell(self, what: str, held: _Held, now: float) -> None:
        seconds = now - held.since
        ((place, _),) = held.seen.most_common(1)
        where = (place.file, place.function)
        quiet = now - self._told.get(where, -QUIET) < QUIET
        if held.told or quiet or seconds < self._limit:
            return
        held.told = True
        self._told[where] = now
        _log.warning(what, place=str(place), seconds=round(seconds, 3), hint=AWAIT)


def _frame_of(thread: int) -> FrameType | None:
    return sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
