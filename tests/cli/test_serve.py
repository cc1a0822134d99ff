"""`ferrule serve`: what it checks before it listens, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ferrule.db import Database

COMMAND = [sys.executable, "-c", "from ferrule.cli import main; main()", "serve"]
READY = 60
"""Seconds that a start may take on a busy machine."""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


def _environment(**values: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("FERRULE_")} | values


def _serve(folder: Path, *arguments: str, **values: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=_environment(**values),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def started(tmp_path: Path) -> Iterator["list[subprocess.Popen[str]]"]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_until_it_answers(port: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health") as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("it did not answer in time")


@pytest.mark.parametrize("options", [[], ["--reload"]], ids=["alone", "reload"])
def test_it_serves_and_stops_on_ctrl_c(
    tmp_path: Path, port: int, options: list[str], started: "list[subprocess.Popen[str]]"
) -> None:
    process = _serve(tmp_path, "--port", str(port), *options)
    started.append(process)
    _wait_until_it_answers(port, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Traceback" not in output


def test_a_port_in_use_ends_with_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = _serve(tmp_path, "--port", str(taken.getsockname()[1]))
        output, _ = process.communicate(timeout=READY)
    assert process.returncode == 1, output
    assert "address already in use" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_a_database_behind_ends_with_2_and_names_the_command(
    tmp_path: Path, port: int, database: Database
) -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    process = _serve(tmp_path, "--port", str(port), FERRULE_DATABASE_URL=url)
    output, _ = process.communicate(timeout=READY)
    assert process.returncode == 2, output
    assert output.count("ferrule db upgrade") == 1
    assert "Traceback" not in output


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_several_workers_serve_and_stop(
    tmp_path: Path, port: int, database: Database, started: "list[subprocess.Popen[str]]"
) -> None:
    process = _serve(
        tmp_path,
        *("--port", str(port), "--workers", "2"),
        FERRULE_DATABASE_URL=database.url.set(drivername="postgresql").render_as_string(
            hide_password=False
        ),
        FERRULE_DATABASE__MIGRATE_ON_START="true",
    )
    started.append(process)
    _wait_until_it_answers(port, process)
    async with database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM items")) == 0
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    # Each worker runs our server.
    assert output.count('"stopping"') == 2
