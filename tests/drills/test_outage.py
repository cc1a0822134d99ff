"""A database that is busy, gone or full: 503 or 507, never 500, and no restart is needed."""

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.drills.client import Client, sign_in
from tests.drills.ledger import Ledger, audit, held, writing
from tests.server import Server

full = pytest.mark.drill
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
HEALED = 2.0
"""Seconds to the next acknowledged write after the cause has gone."""


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=full)])
async def test_fifty_clients_write_at_once(server: Server, url: str, seconds: float) -> None:
    ledger = Ledger()
    server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token, clients=50):
        await asyncio.sleep(seconds)
    assert set(ledger.answers) == {201}, ledger.unexpected[:3]
    assert "is locked" not in server.output()
    await audit(url, ledger)
    print(f"\n{ledger.rate:.0f} writes/s, slowest {ledger.slowest:.2f} s, {dict(ledger.answers)}")


@full
@on_postgresql
async def test_terminated_connections_heal(server: Server, url: str) -> None:
    ledger, healed = Ledger(), list[float]()
    server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token, rate=200), _administration(url) as execute:
        for _ in range(20):
            await asyncio.sleep(0.4)
            await execute(TERMINATE)
            healed.append(await _next_acknowledged(ledger))
    await _check_outage(ledger, url, healed, refused_may_be_stored=True)


@on_postgresql
@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=full)])
async def test_postgresql_out_of_reach_heals(server: Server, url: str, seconds: float) -> None:
    ledger = Ledger()
    server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token, rate=200), _administration(url) as execute:
        await asyncio.sleep(0.4)
        await execute("ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            await execute(TERMINATE)
            await asyncio.sleep(seconds)
            assert time.monotonic() - ledger.times[-1] > seconds / 2
            await _check_health(server, 503)
        finally:
            await execute("ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        healed = await _next_acknowledged(ledger)
    await _check_health(server, 200)
    await _check_outage(ledger, url, [healed], refused_may_be_stored=True)


@on_sqlite
@pytest.mark.parametrize(("wait", "seconds"), [(0.4, 1.5), pytest.param(5, 10, marks=full)])
async def test_sqlite_locked_by_another_program_heals(
    make_server: Callable[..., Server], url: str, wait: float, seconds: float
) -> None:
    server, ledger = make_server(DATABASE_URL=url, DATABASE__WAIT=str(wait)), Ledger()
    server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token, rate=200):
        await asyncio.sleep(0.4)
        async with held(url):
            await asyncio.sleep(seconds)
            await _check_health(server, 200)
        healed = await _next_acknowledged(ledger)
    # In the queue for the writer, and then as the writer for the lock.
    assert ledger.slowest < 2 * wait + 1
    await _check_outage(ledger, url, [healed])


@on_sqlite
async def test_a_file_that_cannot_grow_heals(server: Server, url: str) -> None:
    ledger = Ledger()
    server.start()
    token = await sign_in(server.port)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with writing(ledger, server.port, token, rate=200):
        await asyncio.sleep(0.4)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64 * 1024, hard))
        await asyncio.sleep(1)
        await _check_reads(server, token)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        healed = await _next_acknowledged(ledger)
    await _check_outage(ledger, url, [healed])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, of which 1 MiB is taken by `ballast`; only root can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    (disk / "ballast").write_bytes(b"x" * 2**20)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@full
async def test_a_full_disk_heals(make_server: Callable[..., Server], small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'drill.db'}"
    server, ledger = make_server(DATABASE_URL=url), Ledger()
    server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token):
        deadline = time.monotonic() + 60
        while ledger.answers[507] < 50:
            assert time.monotonic() < deadline, ledger.answers
            await asyncio.sleep(0.05)
        await _check_reads(server, token)
        (small_disk / "ballast").unlink()
        healed = await _next_acknowledged(ledger)
    await _check_outage(ledger, url, [healed])


TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = '{name}' AND application_name = 'ferrule'"
)


@asynccontextmanager
async def _administration(url: str) -> AsyncIterator[Callable[[str], Any]]:
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        yield lambda statement: connection.execute(statement.format(name=name))
    finally:
        await connection.close()


async def _next_acknowledged(ledger: Ledger) -> float:
    """Wait for it; the seconds it took."""
    started, known = time.monotonic(), len(ledger.times)
    while len(ledger.times) == known:
        assert time.monotonic() - started < 10, ledger.answers
        await asyncio.sleep(0.005)
    return ledger.times[known] - started


async def _check_outage(
    ledger: Ledger, url: str, healed: list[float], *, refused_may_be_stored: bool = False
) -> None:
    assert not ledger.unexpected, ledger.unexpected[:3]
    assert ledger.refused, "nothing was refused: the drill did not bite"
    assert max(healed) < HEALED
    # An answer that was lost with the connection to PostgreSQL tells nothing about the commit.
    await audit(url, ledger, refused_may_be_stored=refused_may_be_stored)
    print(f"\n{dict(ledger.answers)}, slowest {ledger.slowest:.2f} s, healed {max(healed):.2f} s")


async def _check_health(server: Server, status: int) -> None:
    async with Client(server.port) as client:
        assert (await client.request("GET", "/health")).status == status


async def _check_reads(server: Server, token: str) -> None:
    async with Client(server.port, token) as client:
        assert (await client.request("GET", "/items")).status == 200
