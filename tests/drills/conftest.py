from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.testing import TestDatabases
from tests.server import Server


@pytest_asyncio.fixture
async def url(database_kind: str, databases: TestDatabases, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return await databases.create(database_kind, tmp_path, "drill")


@pytest.fixture
def server(make_server: Callable[..., Server], url: str) -> Server:
    """`ferrule serve` on an empty database; it does not run yet."""
    return make_server(DATABASE_URL=url)
