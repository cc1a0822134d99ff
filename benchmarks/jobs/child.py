"""A process that runs one contender's jobs, or asks for them; it is told what by lines of JSON.

    python -m benchmarks.jobs.child <key>

It answers each line with one; while it works it tells of each job that begins.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from typing import Any, Protocol

import uvloop

from benchmarks.jobs import EFFECT, EMPTY, JOB_CONTENDERS, PAUSE, JobContender
from benchmarks.jobs.notes import notes
from benchmarks.jobs.stores import Store, store

LOOK = 0.005
"""Seconds between two looks whether all is recorded."""
PATIENCE = 120.0

Tell = Callable[[dict[str, Any]], object]


class Queue(Protocol):
    """What a contender's module offers."""

    async def clear(self) -> None:
        """Remove all jobs."""

    async def ask(self, task: str, numbers: Sequence[int]) -> None:
        """Enqueue these jobs, and commit."""

    async def left(self) -> int:
        """Jobs whose completion is not recorded."""
        ...

    def working(self) -> AbstractAsyncContextManager[None]:
        """Have a worker until the block ends."""
        ...


class Child:
    """Does what it is told to its queue."""

    def __init__(self, queue: Queue, store: Store, tell: Tell) -> None:
        self._queue = queue
        self._store = store
        self._tell = tell
        self._work = AsyncExitStack()
        self._asked = 0

    async def throughput(self, task: str, jobs: int) -> dict[str, Any]:
        """Work off a queue that was filled before, once to warm up; seconds, and those of CPU."""
        await self._drain(task, max(1, jobs // 8))
        return await self._drain(task, jobs)

    async def _drain(self, task: str, jobs: int) -> dict[str, Any]:
        await self._queue.clear()
        await self._store.run("DELETE FROM ledger")
        await self._queue.ask(task, range(jobs))
        await self._store.settle()
        notes.expect(jobs)
        began, used = time.perf_counter(), time.process_time()
        async with asyncio.timeout(PATIENCE), self._queue.working():
            await notes.all()
            while await self._queue.left():
                await asyncio.sleep(LOOK)
            found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}
        entries = await self._store.number("SELECT count(*) FROM ledger")
        if entries != (jobs if task == EFFECT else 0):
            raise RuntimeError(f"{jobs} x {task} have stored {entries} entries.")
        return found

    async def embedded(self, number: int) -> dict[str, Any]:
        """Seconds from a commit to the job's start, in the process that has the worker."""
        await self._queue.clear()
        found: list[float] = []
        async with self._queue.working():
            for _ in range(number):
                await asyncio.sleep(random.uniform(*PAUSE))
                notes.expect(1)
                committed = (await self.ask())["committed"]
                async with asyncio.timeout(PATIENCE):
                    await notes.all()
                found.append(max(0.0, notes.began[self._asked] - committed))
        return {"seconds": found}

    async def ask(self) -> dict[str, Any]:
        """Enqueue one job; when it was committed, by the clock that processes share."""
        self._asked += 1
        await self._queue.ask(EMPTY, [self._asked])
        return {"committed": time.monotonic()}

    async def work(self) -> dict[str, Any]:
        """Work from now on, and tell of each job that begins."""
        await self._queue.clear()
        notes.told = lambda number, at: self._tell({"number": number, "began": at})
        await self._work.enter_async_context(self._queue.working())
        return {}

    async def rest(self) -> dict[str, Any]:
        """Work no more."""
        await self._work.aclose()
        notes.told = None
        return {}


async def _serve(contender: JobContender, tell: Tell) -> None:
    module = import_module(f"benchmarks.jobs.{contender.module}")
    async with store() as opened, module.opened(contender, opened) as queue:
        await opened.ready()
        child = Child(queue, opened, tell)
        tell({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = json.loads(line)
            tell(await getattr(child, command)(*arguments))


def main() -> None:
    contender = next(each for each in JOB_CONTENDERS if each.key == sys.argv[1])
    # What anybody prints goes to the log: these lines have the pipe for themselves.
    with os.fdopen(os.dup(1), "wb", buffering=0) as pipe:
        os.dup2(2, 1)
        serving = _serve(contender, lambda answer: pipe.write(json.dumps(answer).encode() + b"\n"))
        (uvloop.run if contender.served else asyncio.run)(serving)


if __name__ == "__main__":
    main()
