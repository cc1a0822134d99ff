"""Processes that work on the jobs of `jobs_app`, and the audit of what they did."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select

from ferrule import Unavailable, create_app
from ferrule.db import Database
from ferrule.jobs.models import COMPLETED, FINISHED, RUNNING, Job
from ferrule.jobs.queue import WORKER_DIED
from ferrule.kit import Kit
from ferrule.module import Module
from ferrule.settings import Settings
from tests.drills import jobs_app
from tests.server import CLI, HOST, START, Server, free_port

APP = "tests.drills.jobs_app:app"
LEASE = 3.0
FIRST_LOOK = timedelta(seconds=1)
"""Time in which a worker that has begun takes what is overdue already."""


def settings(url: str, folder: Path) -> Settings:
    return Settings(
        database_url=url,
        data_dir=folder,
        database={"migrate_on_start": True, "pool_size": 4},  # type: ignore[arg-type]
        jobs={"lease": LEASE},  # type: ignore[arg-type]
        _env_file=None,  # type: ignore[call-arg]
    )


@asynccontextmanager
async def office(url: str, folder: Path, *modules: Module) -> AsyncIterator[Kit]:
    """The application in this process, which asks for work and looks at it, and does none."""
    app = create_app(settings(url, folder), modules=modules or [jobs_app.module])
    async with app.running() as kit:
        async with kit[Database].write() as session:
            await jobs_app.prepare(session)
        yield kit


def start(worker: Server) -> None:
    """Start a `ferrule worker`, and wait until it works."""
    worker.command = [*CLI, "worker"]
    begun = _begun(worker)
    worker.launch()
    deadline = time.monotonic() + START
    while _begun(worker) == begun:
        assert worker.process.poll() is None, worker.output()
        assert time.monotonic() < deadline, worker.output()
        time.sleep(0.02)


def _begun(worker: Server) -> int:
    return worker.output().count("worker started") if worker.log.exists() else 0


PULSE = 0.05


@dataclass
class Deaths:
    """When processes were killed, by their ids, and when they had begun, where it matters."""

    at: dict[int, datetime] = field(default_factory=dict[int, datetime])
    up: dict[int, datetime] = field(default_factory=dict[int, datetime])

    def begun(self, server: Server) -> None:
        """Tell that it works, and that nobody did before."""
        self.up[server.process.pid] = datetime.now(UTC)

    def kill(self, server: Server) -> None:
        self.at[server.process.pid] = datetime.now(UTC)
        server.kill()

    def deadline(self, dead: int, heir: int) -> datetime:
        """When a job must have been claimed again, if its heir did not begin later than that."""
        lease = self.at[dead] + timedelta(seconds=LEASE)
        return max(lease, self.up[heir] + FIRST_LOOK) if heir in self.up else lease


async def rows(kit: Kit, *columns: Any, where: Any = None) -> list[Any]:
    async with kit[Database].read() as session:
        statement = select(*columns) if where is None else select(*columns).where(where)
        return list((await session.execute(statement)).all())


async def until(what: Callable[[], Any], seconds: float) -> Any:
    """Wait until an asynchronous question is answered with something true; the answer."""
    deadline = time.monotonic() + seconds
    while not (answer := await what()):
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.05)
    return answer


async def finished(kit: Kit, seconds: float) -> None:
    """Wait until no job is left."""

    async def none() -> bool:
        # Connections of before a restart are found to be lost one by one.
        with suppress(Unavailable):
            return not await rows(kit, Job.id, where=Job.status.not_in(FINISHED))
        return False

    await until(none, seconds)


async def held_by(kit: Kit, worker: Server) -> list[Any]:
    """Jobs that run in a process."""
    mine = Job.owner.contains(f":{worker.process.pid}:")
    return await rows(kit, Job.id, Job.kind, Job.epoch, where=mine & (Job.status == RUNNING))


async def audit(kit: Kit, expected: set[UUID], *, wanted_steps: int | None = None) -> None:
    """Each job is completed, wrote one row under the claim that completed it, and no stale one."""
    columns = (Job.id, Job.status, Job.epoch, Job.payload)
    jobs = {row.id: row for row in await rows(kit, *columns)}
    lost = {id for id in expected if id not in jobs or jobs[id].status != COMPLETED}
    assert not lost, f"{len(lost)} of {len(expected)} jobs are lost: {list(lost)[:3]}"
    assert not jobs.keys() - expected, "jobs that nobody asked for"
    written = await rows(kit, *jobs_app.ledger.c)
    times = Counter(row.job_id for row in written)
    doubled = [id for id, number in times.items() if number > 1]
    assert not doubled, f"{len(doubled)} jobs are in the ledger twice: {doubled[:3]}"
    assert times.keys() == expected, f"{len(expected - times.keys())} jobs are not in the ledger"
    # What was written apart may be older: whoever wrote it died before it could record the end.
    others = [r for r in written if r.epoch != jobs[r.job_id].epoch and not _apart(jobs[r.job_id])]
    assert not others, f"{len(others)} rows are not of the claim that completed: {others[:3]}"
    taken = {(row.job_id, row.epoch): row.at for row in await rows(kit, *jobs_app.claims.c)}
    done = await rows(kit, *jobs_app.steps.c)
    twice = [key for key, n in Counter((r.job_id, r.step) for r in done).items() if n > 1]
    assert not twice, f"{len(twice)} steps were done twice"
    stale = [
        row
        for row in (*written, *done)
        if (next_claim := taken.get((row.job_id, row.epoch + 1))) and row.at >= next_claim
    ]
    assert not stale, f"{len(stale)} rows were written after the next claim: {stale[:3]}"
    if wanted_steps is not None:
        assert len(done) == wanted_steps


class Pulse:
    """How long the machine stood still: other work on it delays whatever is promised here."""

    worst = 0.0

    def __str__(self) -> str:
        return f"the machine stood still for {self.worst:.2f} s at the most"


@asynccontextmanager
async def pulse(kit: Kit) -> AsyncIterator[Pulse]:
    """Measure until the block ends."""
    found = Pulse()

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(PULSE)
            if kit[Database].embedded:
                # Nobody but the server writes there.
                await rows(kit, jobs_app.beats.c.number)
            else:
                async with kit[Database].write() as session:
                    await session.execute(insert(jobs_app.beats).values(number=1))
            found.worst = max(found.worst, time.monotonic() - began - PULSE)

    task = asyncio.create_task(beat())
    try:
        yield found
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])


def _apart(job: Any) -> bool:
    return bool(job.payload["apart"])


@dataclass
class Taken:
    """What became of jobs whose worker was killed."""

    delays: list[float]
    """Seconds from the kill to the next claim."""
    late: float
    """Seconds by which the last of them was too late."""
    alive: int
    """Jobs that were taken from a worker which lived."""
    other: Counter[str]
    """Errors for which jobs were tried again, of which none is expected."""

    def __str__(self) -> str:
        ordered = sorted(self.delays) or [0.0]
        return (
            f"{len(self.delays)} jobs taken from the dead after {ordered[len(ordered) // 2]:.2f} s "
            f"(median), {ordered[-1]:.2f} s (worst), {self.alive} from the living"
        )


async def taken_over(kit: Kit, deaths: Deaths) -> Taken:
    """What the claims tell."""
    found = await rows(kit, *jobs_app.claims.c)
    owners = {(row.job_id, row.epoch): int(row.owner.split(":")[1]) for row in found}
    taken = Taken([], 0.0, 0, Counter())
    for row in found:
        if row.error is None:
            continue
        died = deaths.at.get(owners[row.job_id, row.epoch - 1])
        if row.error != WORKER_DIED:
            taken.other[row.error] += 1
        elif died is None or row.at < died:
            taken.alive += 1
        else:
            taken.delays.append((row.at - died).total_seconds())
            dead, heir = (owners[row.job_id, epoch] for epoch in (row.epoch - 1, row.epoch))
            late = (row.at - deaths.deadline(dead, heir)).total_seconds()
            taken.late = max(taken.late, late)
    return taken


def stopped(server: Server) -> bool:
    """Whether the process stands still."""
    status = Path(f"/proc/{server.process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"


class Cluster:
    """A PostgreSQL server of our own, which may be restarted."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://postgres@{HOST}:{self.port}/postgres"
        self._programs = programs

    def init(self) -> None:
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")

    def control(self, action: str, *arguments: str) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses={HOST}"
        log = str(self.folder / "log")
        self._run("pg_ctl", action, "-w", "-l", log, "-o", options, *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        subprocess.run(
            [self._programs / program, "-D", self.folder / "data", *arguments],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **user,
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running server with an empty database; a test is skipped where its programs are not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("the programs of a PostgreSQL server are not installed")
    # Not in the folder of the test, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="ferrule-drill-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = Cluster(found[-1].parent, folder)
        server.init()
        server.control("start")
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")


def go_on(server: Server) -> None:
    server.process.send_signal(signal.SIGCONT)
