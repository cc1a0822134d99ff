"""The plugin as a project on Ferrule uses it."""

import os
import subprocess
import sys
from pathlib import Path

PYPROJECT = """[tool.pytest]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""

TEST = """
from ferrule.testing import Actors

async def test_two_people(client, actors: Actors):
    ann, bob = await actors("ann"), await actors("bob", admin=True)
    assert (await client.get("/api/v1/users/me")).status_code == 401
    assert (await ann.get("/api/v1/users/me")).json() == ann.user
    assert ann.user["email"] == "ann@example.com"
    assert (await ann.get("/api/v1/users")).status_code == 403
    assert (await bob.get("/api/v1/users")).json()["pagination"]["total"] == 2
    assert await actors("ann") is ann
"""


def run(folder: Path, *options: str, **environment: str) -> str:
    (folder / "test_people.py").write_text(TEST)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    process = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    return process.stdout + process.stderr


def test_postgresql_that_does_not_answer_is_told_in_the_last_lines(tmp_path: Path) -> None:
    nowhere = "postgresql://postgres:hunter2@127.0.0.1:9/none"
    output = run(tmp_path, "-n", "1", FERRULE_TEST_POSTGRES_URL=nowhere, FERRULE_TEST_REQUIRE="")
    assert "1 passed, 1 skipped" in output, output
    last = output.strip().splitlines()[-2:]
    assert any("NOT RUN: 1 tests on PostgreSQL" in line for line in last), output
    assert "127.0.0.1:9" in output
    assert "hunter2" not in output


def test_postgresql_can_be_demanded(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        FERRULE_TEST_POSTGRES_URL="postgresql://postgres@127.0.0.1:9/none",
        FERRULE_TEST_REQUIRE="all",
    )
    assert "1 passed, 1 error" in output, output
