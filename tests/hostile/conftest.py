"""The application on every database at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.testing import TestDatabases
from tests.hostile.worlds import Worlds, worlds


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Thousands of lines that a failing test would print.
    monkeypatch.setattr("ferrule.http.edge.log_request", lambda **_: None)


@pytest_asyncio.fixture
async def both(databases: TestDatabases, tmp_path: Path) -> AsyncIterator[Worlds]:
    async with worlds(databases, tmp_path) as both:
        yield both
