"""Fixtures for projects on Ferrule; see `ferrule.testing`."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from httpx import ASGITransport, AsyncClient

from ferrule.app import Ferrule
from ferrule.jobs.worker import Worker
from ferrule.testing import Actors, TestDatabases

NO_POSTGRES = "PostgreSQL does not answer"


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestDatabases]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    databases = TestDatabases(tmp_path_factory.mktemp("databases"), worker)
    yield databases
    databases.drop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest, databases: TestDatabases) -> str:
    """The database that a test runs on: each in turn."""
    kind: str = request.param
    if kind == "postgresql" and (why := databases.why_no_postgres()):
        if os.environ.get("FERRULE_TEST_REQUIRE") == "all":
            pytest.fail(f"{NO_POSTGRES} {why}")
        pytest.skip(f"{NO_POSTGRES} {why}")
    return kind


@pytest.fixture
def application() -> Ferrule:
    """The project's application, as FERRULE_APP or pyproject.toml name it; override it at will."""
    from ferrule.cli.application import load

    return load()


@pytest_asyncio.fixture
async def app(
    application: Ferrule, database_kind: str, databases: TestDatabases, tmp_path: Path
) -> AsyncIterator[Ferrule]:
    """The application, started on an empty database."""
    before = application.settings
    application.configure(await databases.empty(application, database_kind, tmp_path))
    async with application.router.lifespan_context(application):
        yield application
    application.configure(before)


@pytest_asyncio.fixture
async def client(app: Ferrule) -> AsyncIterator[AsyncClient]:
    """A client that nobody is signed in with."""
    # The application answers what it raises; a test sees the answer, as a client would.
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


@pytest_asyncio.fixture
async def actors(app: Ferrule) -> AsyncIterator[Actors]:
    """Makes signed-in clients."""
    async with Actors(app) as actors:
        yield actors


@pytest_asyncio.fixture
async def worker(app: Ferrule) -> AsyncIterator[Worker]:
    """Runs jobs when the test says so: `await worker.drain()`."""
    worker = Worker(app.kit)
    yield worker
    await worker.close()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the last lines what was not run."""
    # From the reports, which also come from the processes of pytest-xdist.
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    left_out = [reason for reason in reasons if NO_POSTGRES in reason]
    if left_out:
        why = left_out[0].partition(NO_POSTGRES)[2].rstrip("')")
        terminalreporter.write_line(
            f"NOT RUN: {len(left_out)} tests on PostgreSQL, which does not answer{why}", yellow=True
        )
