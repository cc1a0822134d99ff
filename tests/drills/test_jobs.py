"""Jobs while what runs them dies: none is lost, none is done twice, none waits beyond the lease."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from ferrule import Module, create_app
from ferrule.jobs.models import COMPLETED, Job
from ferrule.jobs.worker import Worker
from ferrule.kit import Kit
from tests.drills import jobs_app
from tests.drills.client import LOST, Client
from tests.drills.jobs_app import Work, ask
from tests.drills.workforce import (
    APP,
    LEASE,
    Deaths,
    audit,
    cluster,
    finished,
    go_on,
    held_by,
    office,
    pulse,
    rows,
    settings,
    start,
    stopped,
    taken_over,
    until,
)
from tests.server import Server

full = pytest.mark.drill
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
ROOT = Path(__file__).parents[2]

MakeProcess = Callable[..., Server]


@pytest.fixture
def make(make_server: MakeProcess, monkeypatch: pytest.MonkeyPatch) -> MakeProcess:
    """Makes processes of the drills' application that do not run yet."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def process(url: str, **settings: str) -> Server:
        ours = {"APP": APP, "LOG_LEVEL": "info", "JOBS__LEASE": str(LEASE)}
        return make_server(DATABASE_URL=url, **ours | settings)

    return process


@pytest_asyncio.fixture
async def kit(url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    """The application in this process, which does no work."""
    async with office(url, tmp_path) as kit:
        yield kit


STEPS = 3


def _mixed(number: int, *, inside: float) -> list[Work]:
    """Jobs of all kinds; `inside` is how long a transaction may stay open."""
    kinds = itertools.cycle(
        [
            Work(),
            Work(seconds=random.uniform(0.05, 0.3)),
            Work(steps=STEPS, seconds=0.03),
            Work(inside=inside),
            Work(seconds=random.uniform(0.05, 0.3), apart=True),
        ]
    )
    return [next(kinds) for _ in range(number)]


def _steps(wanted: list[Work]) -> int:
    return sum(each.steps for each in wanted)


# Workers that are killed.


@on_postgresql
@pytest.mark.parametrize(("jobs", "kills"), [(300, 5), pytest.param(5000, 100, marks=full)])
async def test_jobs_of_killed_workers(
    make: MakeProcess, kit: Kit, url: str, jobs: int, kills: int
) -> None:
    workers = [make(url), make(url)]
    await asyncio.gather(*(asyncio.to_thread(start, worker) for worker in workers))
    deaths, asked, wanted, caught = Deaths(), set[UUID](), list[Work](), 0
    async with pulse(kit) as machine:
        for number in range(kills):
            batch = _mixed(jobs // kills, inside=0.1)
            wanted += batch
            asked |= set(await ask(kit, *batch))
            if number:
                victim = random.choice(workers)
                await asyncio.sleep(random.uniform(0.05, 0.7))
            else:
                victim = await until(lambda: _busy(kit, workers), 20)
            deaths.kill(victim)
            caught += bool(await held_by(kit, victim))
            await asyncio.to_thread(start, victim)
        await finished(kit, 60)
    await audit(kit, asked, wanted_steps=_steps(wanted))
    taken = await taken_over(kit, deaths)
    print(f"\n{len(asked)} jobs, {kills} kills, {caught} of them amid jobs; {taken}; {machine}")
    assert caught > kills // 10, "the drill did not bite"
    assert not taken.other
    assert taken.late <= machine.worst


@on_sqlite
@pytest.mark.parametrize(("jobs", "kills"), [(200, 4), pytest.param(2500, 50, marks=full)])
async def test_jobs_of_killed_servers(
    make: MakeProcess, kit: Kit, url: str, jobs: int, kills: int
) -> None:
    server, deaths, caught = make(url, LOG_LEVEL="warning"), Deaths(), 0
    wanted, asked, up = list[Work](), set[UUID](), list[float]()
    async with pulse(kit) as machine:
        for number in range(kills):
            # While no server runs: nobody else writes then.
            batch = _mixed(jobs // kills, inside=0)
            wanted += batch
            asked |= set(await ask(kit, *batch))
            up.append(await asyncio.to_thread(server.start))
            deaths.begun(server)
            if number:
                await asyncio.sleep(random.uniform(0, 0.5))
            else:
                await until(lambda: _busy(kit, [server]), 20)
            deaths.kill(server)
            caught += bool(await held_by(kit, server))
        up.append(await asyncio.to_thread(server.start))
        deaths.begun(server)
        await finished(kit, 60)
    await audit(kit, asked, wanted_steps=_steps(wanted))
    taken = await taken_over(kit, deaths)
    print(
        f"\n{len(asked)} jobs, {kills} kills, {caught} of them amid jobs; up after "
        f"{max(up):.2f} s at the most; {taken}; {machine}"
    )
    assert caught > kills // 10, "the drill did not bite"
    assert not taken.other
    assert taken.late <= machine.worst


async def _busy(kit: Kit, workers: list[Server]) -> Server | None:
    """One that runs jobs."""
    for worker in workers:
        if await held_by(kit, worker):
            return worker
    return None


# Workers that stand still, and go on when others have their jobs.


@on_postgresql
@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=full)])
async def test_jobs_of_stopped_workers(make: MakeProcess, kit: Kit, url: str, rounds: int) -> None:
    workers = [make(url), make(url)]
    await asyncio.gather(*(asyncio.to_thread(start, worker) for worker in workers))
    asked, wanted, caught, late = set[UUID](), list[Work](), 0, 0.0
    async with pulse(kit) as machine:
        for number in range(rounds):
            batch = [
                Work(steps=5, seconds=0.3),
                Work(inside=1.0),
                Work(seconds=1.0, apart=True),
            ] * 4
            wanted += batch
            asked |= set(await ask(kit, *batch))
            await asyncio.sleep(0.3)
            if number % 2:
                await asyncio.sleep(random.uniform(0, 1))
                random.choice(workers).process.send_signal(signal.SIGSTOP)
            else:
                asked |= set(await ask(kit, Work(stops=True)))
                wanted.append(Work())
            still, other = await until(lambda: _one_stopped(workers), 20)
            began, held = time.monotonic(), await held_by(kit, still)
            caught += len(held)
            await until(lambda still=still: _taken_from(kit, still), 20)  # type: ignore[misc]
            late = max(late, time.monotonic() - began)
            await asyncio.sleep(max(0.0, began + LEASE + 0.2 - time.monotonic()))
            # The other may be at work on the very same jobs now.
            go_on(still)
            await finished(kit, 30)
            # It is well again: it does the next work alone.
            other.process.send_signal(signal.SIGSTOP)
            batch = [Work(seconds=0.02)] * 5
            wanted += batch
            asked |= set(await ask(kit, *batch))
            await finished(kit, 30)
            go_on(other)
    await audit(kit, asked, wanted_steps=_steps(wanted))
    noticed = sum(worker.output().count("job lost") for worker in workers)
    print(
        f"\n{len(asked)} jobs, {rounds} stops amid {caught} jobs, "
        f"all taken over within {late:.2f} s, {noticed} fenced off, no stale row; {machine}"
    )
    assert caught >= rounds, "the drill did not bite"
    assert noticed
    assert late <= LEASE + machine.worst


async def _one_stopped(workers: list[Server]) -> tuple[Server, Server] | None:
    first, second = workers
    if stopped(first):
        return first, second
    return (second, first) if stopped(second) else None


async def _taken_from(kit: Kit, worker: Server) -> bool:
    return not await held_by(kit, worker)


# A database that is restarted.


@pytest.mark.parametrize(("restarts", "pause"), [(2, 0.8), pytest.param(12, 10.0, marks=full)])
async def test_jobs_while_postgresql_restarts(
    make: MakeProcess, tmp_path: Path, restarts: int, pause: float
) -> None:
    with cluster() as postgresql:
        url = postgresql.url
        async with office(url, tmp_path) as kit:
            workers, server = [make(url), make(url)], make(url, JOBS__EMBEDDED="false")
            await asyncio.gather(
                *(asyncio.to_thread(start, worker) for worker in workers),
                asyncio.to_thread(server.start),
            )
            acknowledged, answers = dict[str, UUID](), list[int]()
            done = asyncio.Event()
            async with asyncio.TaskGroup() as clients:
                for _ in range(4):
                    clients.create_task(_enqueue(server, done, acknowledged, answers))
                for number in range(restarts):
                    await asyncio.sleep(pause)
                    mode = ("fast", "immediate")[number % 2]
                    await asyncio.to_thread(postgresql.control, "restart", "-m", mode)
                await asyncio.sleep(pause)
                done.set()
            ended = time.monotonic()
            await finished(kit, 60)
            waited = time.monotonic() - ended
            await audit(kit, set(acknowledged.values()))
            assert not any("worker failed" in worker.output() for worker in workers)
        print(
            f"\n{len(acknowledged)} jobs were acknowledged, {restarts} restarts, "
            f"{len(answers)} requests were refused or lost; all done {waited:.2f} s after the end"
        )
        assert answers, "the drill did not bite"
        assert set(answers) <= {0, 503}
        assert len(set(acknowledged.values())) == len(acknowledged)


async def _enqueue(
    server: Server, done: asyncio.Event, acknowledged: dict[str, UUID], answers: list[int]
) -> None:
    """Ask for one job after the other, for each until it is acknowledged."""
    async with Client(server.port) as client:
        while not done.is_set():
            key, data = str(uuid4()), random.choice(_mixed(5, inside=0.1)).model_dump()
            while key not in acknowledged:
                try:
                    answer = await client.request("POST", f"/drill?key={key}", data)
                except LOST:
                    answers.append(0)
                else:
                    if answer.status == 202:
                        acknowledged[key] = UUID(answer.json()["job_id"])
                        await asyncio.sleep(0.1)
                        continue
                    answers.append(answer.status)
                await asyncio.sleep(0.1)


# Workers that are told to stop, and servers that are killed with their answer on its way.


@on_postgresql
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=full)])
async def test_a_worker_that_is_told_to_stop_hands_its_jobs_back(
    make: MakeProcess, kit: Kit, url: str, rounds: int
) -> None:
    grace, slowest, waited = 1.0, 0.0, 0.0
    # Far longer than anybody waits here: nothing is taken by the end of a lease.
    ours = {"JOBS__LEASE": "300", "JOBS__GRACE": str(grace)}
    worker, other = make(url, **ours), make(url, **ours)
    await asyncio.to_thread(start, worker)
    long = await ask(
        kit,
        Work(seconds=3600),
        Work(seconds=3600, apart=True),
        Work(inside=3600),
        Work(steps=20_000, seconds=0.1),
    )
    long += await ask(kit, Work(seconds=3600), function=jobs_app.block)
    for number in range(1, rounds + 1):
        await until(lambda: _run_in(kit, worker, long), 10)  # noqa: B023
        short = await ask(kit, *[Work(seconds=grace / 2)] * 2)
        await until(lambda: _run_in(kit, worker, short), 10)  # noqa: B023
        await asyncio.to_thread(start, other)
        began, told = time.monotonic(), datetime.now(UTC)
        status = await asyncio.to_thread(worker.stop)
        slowest = max(slowest, time.monotonic() - began)
        assert status == 0, worker.output()
        await until(lambda: _run_in(kit, other, long), 10)  # noqa: B023
        found = {row.id: row for row in await rows(kit, Job.id, Job.status, Job.attempts)}
        assert {found[id].attempts for id in long} == {1}, "handing back was charged"
        assert {found[id].status for id in short} == {COMPLETED}
        claims = await rows(kit, jobs_app.claims.c.at, where=jobs_app.claims.c.epoch == number + 1)
        assert len(claims) == len(long)
        waited = max(waited, *((row.at - told).total_seconds() - grace for row in claims))
        worker, other = other, worker
    assert not await rows(kit, jobs_app.ledger, where=jobs_app.ledger.c.job_id.in_(long))
    print(
        f"\n{rounds} stops, exit after {slowest:.2f} s, jobs taken {waited:.2f} s after the grace"
    )
    assert slowest < grace + 3
    assert waited < 2


async def _run_in(kit: Kit, worker: Server, ids: list[UUID]) -> bool:
    return set(ids) <= {row.id for row in await held_by(kit, worker)}


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=full)])
async def test_an_enqueued_job_survives_its_server(
    make: MakeProcess, kit: Kit, url: str, kills: int
) -> None:
    server = make(url, LOG_LEVEL="warning", JOBS__EMBEDDED="false")
    kept, refused = set[UUID](), 0
    for _ in range(kills):
        await asyncio.to_thread(server.start)
        async with Client(server.port) as client:
            answer = await client.request("POST", "/drill?refuse=true", {})
            assert answer.status == 422
            refused += 1
            answer = await client.request("POST", "/drill", {})
            server.kill()
            assert answer.status == 202
            kept.add(UUID(answer.json()["job_id"]))
        assert {row.id for row in await rows(kit, Job.id)} == kept
    print(f"\n{kills} kills right after the answer: {len(kept)} jobs kept, {refused} refused")


# Caps and schedules, with many workers.


@on_postgresql
@pytest.mark.parametrize(("jobs", "processes"), [(30, 0), pytest.param(1000, 10, marks=full)])
async def test_caps_are_exact(
    make: MakeProcess, kit: Kit, url: str, tmp_path: Path, jobs: int, processes: int
) -> None:
    wanted = [Work(seconds=random.uniform(0.1, 0.3)) for _ in range(jobs)]
    asked = set(await ask(kit, *wanted, function=jobs_app.capped))
    async with _workers(make, url, tmp_path, jobs_app.module, number=10, processes=processes):
        await finished(kit, 120)
    table = jobs_app.steps
    found = await rows(kit, *table.c)
    moments = sorted((row.at, -1 if row.step else 1) for row in found)
    running = list(itertools.accumulate(change for _, change in moments))
    assert Counter(row.job_id for row in found) == dict.fromkeys(asked, 2)
    shares = Counter(row.owner for row in await rows(kit, jobs_app.claims.c.owner))
    times = [at for at, _ in moments]
    busy = sum(
        number * (after - at).total_seconds()
        for number, at, after in zip(running, times, times[1:], strict=False)
    )
    average = busy / (times[-1] - times[0]).total_seconds()
    print(
        f"\n{jobs} jobs, {len(shares)} workers took part: never more than {max(running)} at the "
        f"same time, {average:.1f} on the average"
    )
    assert max(running) == 4
    assert len(shares) > 1


@on_postgresql
@pytest.mark.parametrize(("seconds", "processes"), [(4, 0), pytest.param(30, 4, marks=full)])
async def test_each_tick_comes_once(
    make: MakeProcess, kit: Kit, url: str, tmp_path: Path, seconds: int, processes: int
) -> None:
    modules = (jobs_app.module, jobs_app.scheduled)
    async with _workers(make, url, tmp_path, *modules, number=4, processes=processes):
        await asyncio.sleep(seconds)
    jobs = await rows(kit, Job.id, Job.status, where=Job.kind == "each_second")
    written = Counter(row.job_id for row in await rows(kit, *jobs_app.ledger.c))
    ticks = sorted(await rows(kit, *jobs_app.ticks.c))
    skipped = [row for row in ticks if row.following - row.tick != timedelta(seconds=1)]
    print(f"\n{len(ticks)} ticks, {len(jobs)} jobs, {len(skipped)} ticks skipped")
    assert len({row.tick for row in ticks}) == len(ticks) == len(jobs) >= seconds - 1
    assert not skipped
    # A tick may have come in the last moment.
    done = {row.id for row in jobs if row.status == COMPLETED}
    assert len(jobs) - len(done) <= 1
    assert written == dict.fromkeys(done, 1)


@asynccontextmanager
async def _workers(
    make: MakeProcess, url: str, folder: Path, *modules: Module, number: int, processes: int
) -> AsyncIterator[None]:
    """So many workers, as processes or in this one, each with a database of its own."""
    if processes:
        assert processes == number
        app = "app" if len(modules) == 1 else "with_schedule"
        made = [make(url, APP=f"tests.drills.jobs_app:{app}") for _ in range(number)]
        await asyncio.gather(*(asyncio.to_thread(start, each) for each in made))
        yield
        assert [await asyncio.to_thread(each.stop) for each in made] == [0] * number
        return
    async with AsyncExitStack() as stack:
        for _ in range(number):
            app = create_app(settings(url, folder), modules=modules)
            kit = await stack.enter_async_context(app.running())
            await stack.enter_async_context(Worker(kit).running())
        yield
