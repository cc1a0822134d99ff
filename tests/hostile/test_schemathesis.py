"""Schemathesis finds nothing: every check, every phase, as administrator and as ordinary user."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import CLI, Server, environment, free_port

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery staple"
SETTINGS = {
    "SECURITY__ARGON2_MEMORY_KIB": "8",
    "SECURITY__ARGON2_PASSES": "1",
    "AUTH__ACCESS_TTL": "86400",
}


@pytest.mark.external
@pytest.mark.parametrize("role", ["administrator", "user"])
def test_schemathesis_finds_nothing(tmp_path: Path, role: str) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        if os.environ.get("FERRULE_TEST_REQUIRE") == "all":
            pytest.fail("schemathesis is not installed")
        pytest.skip("schemathesis is not installed")
    email, admin = f"{role}@example.com", ["--admin"] if role == "administrator" else []
    subprocess.run(
        [*CLI, "user", "create", email, *admin],
        cwd=tmp_path,
        env=environment(),
        input=PASSWORD + "\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    server = Server(tmp_path, free_port(), **SETTINGS)  # type: ignore[arg-type]
    try:
        server.start()
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                f"http://127.0.0.1:{server.port}/openapi.json",
                *("--phases", "examples,coverage,fuzzing,stateful", "--checks", "all"),
                *("--max-examples", "30", "--seed", "20260101", "--no-color"),
                "--continue-on-failure",
            ],
            cwd=ROOT,
            env=environment(SCHEMATHESIS_EMAIL=email, SCHEMATHESIS_PASSWORD=PASSWORD),
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        server.close()
    assert run.returncode == 0, run.stdout + run.stderr
