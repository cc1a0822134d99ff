"""A run: everybody who is in it, and what becomes of them."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from ferrule.errors import Unavailable
from ferrule.streams import hub, room
from ferrule.streams.node import CANARY
from ferrule.streams.position import Position
from tests.streams.simulation.clients import Client
from tests.streams.simulation.clock import Loop
from tests.streams.simulation.database import Life, Log
from tests.streams.simulation.plan import HEALED, Plan
from tests.streams.simulation.process import Process

SILENCE = 0.3
"""Seconds in which nothing more comes."""


class World:
    """A run. `await world.run()` raises `AssertionError` where a reader is not served right."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.log = Log()
        self.latency = rng.choice([0.0, 0.002, 0.02, 0.1])
        self.faults = False
        self.names = [f"rooms/{number}" for number in range(rng.choice([1, 1, 2]))]
        self.processes = [Process(self) for _ in range(rng.choice([1, 2, 3]))]
        self.clients: list[Client] = []
        self.failed: list[str] = []

    async def run(self) -> None:
        """Phases of writing amid faults; after each there is silence, and all must be complete."""
        running: list[asyncio.Task[None]] = []
        try:
            for _ in range(self.rng.choice([0, 0, 1])):
                await self._write(self.names)
            for _ in range(self.rng.choice([1, 2, 3])):
                running += self._join(self.rng.randint(0 if self.clients else 1, 3))
                await self._amid_faults()
                await self._check_complete(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for process in self.processes:
                if process.alive:
                    rooms = dict(process.hub._rooms)
                    await process.kill()
                    assert not rooms, "a room without readers is left"

    async def pause(self, seconds: float) -> None:
        """Wait up to so long, often not at all."""
        if seconds and self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.random() * seconds)
        elif self.rng.random() < 0.5:
            await asyncio.sleep(0)

    async def read_way(self) -> None:
        await self.pause(self.latency)
        if self.faults and self.rng.random() < self.plan.failing:
            raise self.rng.choice([Unavailable(), ConnectionResetError()])

    def carry(self, sender: Process, body: bytes) -> None:
        """Bring a message to all others."""
        plan, rng = self.plan, self.rng
        for process in self.processes:
            copies = 1
            if self.faults:
                copies += (rng.random() < plan.doubled) - (rng.random() < plan.lost)
            for _ in range(copies if process is not sender else 0):
                late = rng.random() * plan.late if rng.random() < 0.5 else 0.001
                self.loop.call_later(late, process.receive, body)

    async def any_process(self) -> Process:
        while not (alive := [process for process in self.processes if process.alive]):
            await asyncio.sleep(0.05)
        return self.rng.choice(alive)

    def _join(self, number: int) -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        for _ in range(number):
            client = Client(self, self.rng.choice(self.names), None)
            client = Client(self, client.stream, self._some_place(client.stream))
            self.clients.append(client)
            tasks.append(asyncio.create_task(client.run()))
        return tasks

    def _some_place(self, stream: str) -> Position | None:
        life = self.log.streams.get(stream)
        top = life.top if life else 0
        offset = self.rng.choice([0, self.rng.randint(0, top), top, top + 1, top + 3])
        epochs = [None, "stale", *[epoch for name, epoch in self.log.lives if name == stream]]
        somewhere = Position(offset, self.rng.choice(epochs))
        return self.rng.choice([None, Position(0), somewhere, somewhere])

    async def _amid_faults(self) -> None:
        plan, rng = self.plan, self.rng
        doings = [self._commit] * 6 + [self._roll_back]
        doings += [self._trim] * plan.trims + [self._remove] * plan.removals
        doings += [self._cut] * 2 * plan.cuts + [self._stall] * 2 * plan.stalls
        doings += [self._deafen] * plan.deaf + [self._kill] * plan.kills
        self.faults = True
        async with asyncio.TaskGroup() as tasks:
            for _ in range(rng.randint(2, 20)):
                tasks.create_task(rng.choice(doings)())
                await self.pause(rng.choice([0.0, 0.01, 0.1, 0.5]))
        self.faults = False

    async def _check_complete(self, running: Sequence[asyncio.Task[None]]) -> None:
        longest = max(len(life.kept) for life in [Life("", ""), *self.log.streams.values()])
        reading = (4 + longest / room.PAGE) * 3 * self.latency
        now, deadline = self.loop.time(), self.loop.time() + self.plan.within + reading
        silent_since = now
        # What comes in spite of that comes soon.
        while (now := self.loop.time()) < silent_since + SILENCE:
            for task in running:
                if task.done():
                    task.result()
            if late := [client for client in self.clients if not client.complete]:
                silent_since = now
                assert now < deadline, f"not complete in time: {late}"
            await asyncio.sleep(0.05)
        assert not self.failed, self.failed
        assert not cast(Loop, self.loop).circled, "it turned in circles"

    async def _commit(self) -> None:
        names = [name for name in self.names if self.rng.random() < 0.7] or self.names[:1]
        await self._write(names)

    async def _write(self, names: Sequence[str]) -> None:
        process = await self.any_process()
        async with self.log.locked(names):
            await self.pause(self.latency)
            appended = [self.log.append(n, self.rng.choice([1, 1, 2, 3, 9])) for n in names]
        # The answer of the commit is on its way: those of others may overtake it.
        await self.pause(self.latency)
        silent = self.faults and self.rng.random() < self.plan.unannounced
        if process.alive and not silent:
            process.hub.committed(appended)

    async def _roll_back(self) -> None:
        async with self.log.locked(self.names):
            await self.pause(2 * self.latency)

    async def _trim(self) -> None:
        name = self.rng.choice(self.names)
        async with self.log.locked([name]):
            await self.pause(self.latency)
            life = self.log.streams.get(name)
            if life is not None:
                self.log.trim(name, self.rng.randint(life.floor, life.top))

    async def _remove(self) -> None:
        name = self.rng.choice(self.names)
        async with self.log.locked([name]):
            await self.pause(self.latency)
            if name in self.log.streams:
                self.log.remove(name)
        # Nobody tells of a stream that is gone.
        if self.plan.within < HEALED or self.rng.random() < 0.8:
            await self._write([name])

    async def _cut(self) -> None:
        client = self.rng.choice(self.clients)
        if client.sink is not None:
            client.sink.end()

    async def _stall(self) -> None:
        client = self.rng.choice(self.clients)
        client.stalled = True
        await asyncio.sleep(self.rng.random())
        client.stalled = False

    async def _deafen(self) -> None:
        process = await self.any_process()
        if not process.silent:
            process.deafen()
            await asyncio.sleep(self.rng.choice([0.3, 1.0, 2.0]))
            process.mend()

    async def _kill(self) -> None:
        process = await self.any_process()
        process.alive = False
        for client in self.clients:
            if client.sink is not None:
                # All of them, for nobody knows where they are connected.
                client.sink.end()
        await process.kill()
        self.processes[self.processes.index(process)] = Process(self)


class _Quiet:
    """What the rooms log: warnings are expected, errors are not."""

    def __init__(self, failed: list[str]) -> None:
        self._failed = failed

    def warning(self, *_: Any, **__: Any) -> None:
        """The database was away."""

    def error(self, event: str, **fields: Any) -> None:
        self._failed.append(f"{event}: {fields.get('exc_info')!r}")


def simulate(seed: int | str, plan: Plan) -> None:
    """One run; what goes wrong is told with its seed."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        try:
            runner.run(_run(random.Random(seed), plan))
        except BaseException as error:
            error.add_note(f"seed {seed!r}, {plan}")
            raise


async def _run(rng: random.Random, plan: Plan) -> None:
    world = World(rng, plan)

    def failed(_: Any, context: dict[str, Any]) -> None:
        world.failed.append(f"{context['message']}: {context.get('exception')!r}")

    world.loop.set_exception_handler(failed)
    with _small(rng), pytest.MonkeyPatch.context() as patch:
        for module in (room, hub):
            patch.setattr(module, "log", _Quiet(world.failed))
        await world.run()
    assert not world.failed, world.failed


@contextmanager
def _small(rng: random.Random) -> Iterator[None]:
    """Pages, what is kept, hints and times so small that their ends are met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "PAGE", rng.choice([2, 3, 5, 200]))
        patch.setattr(room, "MAX_AHEAD", rng.choice([1, 3, 512]))
        patch.setattr(hub, "MAX_HINT", rng.choice([0, 200, 65_536]))
        # Long enough to be known, so short that it heals little else.
        patch.setattr(hub, "NEW", 2 * CANARY)
        yield
