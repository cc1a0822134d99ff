"""`ferrule.asgi:app` under the servers that people have."""

import asyncio
import importlib.util
import signal
import sys
from collections.abc import Callable

import pytest

from tests.drills.client import Client, sign_in
from tests.drills.ledger import Ledger, audit, writing
from tests.server import FERRULE, HOST, Server

APP = "ferrule.asgi:app"
COMMANDS = {
    "uvicorn": ("-m", "uvicorn", APP, "--port", "{port}"),
    "granian": ("-m", "granian", "--interface", "asgi", "--port", "{port}", APP),
    "gunicorn": (
        "-m",
        "gunicorn",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "-b",
        HOST + ":{port}",
        APP,
    ),
}
SLOW = 30.0
"""Seconds that the first answer may take, on a machine that does much else."""
ENDS = {0, -signal.SIGTERM}
"""uvicorn raises the signal once more when it has stopped."""


def _command(name: str, *arguments: str) -> tuple[str, ...]:
    needed = {"gunicorn": "uvicorn_worker"}.get(name, name)
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{name} is not installed")
    return (sys.executable, *COMMANDS[name], *arguments)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", COMMANDS)
async def test_it_is_served(make_server: Callable[..., Server], url: str, name: str) -> None:
    server = make_server(DATABASE_URL=url)
    server.command = [part.format(port=server.port) for part in _command(name)]
    await _drive(server, url, seconds=0.5)


@pytest.mark.drill
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", ["ferrule", "gunicorn", "granian", "uvicorn"])
async def test_four_workers_share_postgresql(
    make_server: Callable[..., Server], url: str, name: str
) -> None:
    server = make_server(DATABASE_URL=url)
    command = (
        (*FERRULE, "--workers", "4") if name == "ferrule" else _command(name, "--workers", "4")
    )
    server.command = [part.format(port=server.port) for part in command]
    await _drive(server, url, seconds=5)


async def _drive(server: Server, url: str, *, seconds: float) -> None:
    ledger = Ledger()
    started = server.start()
    token = await sign_in(server.port)
    async with writing(ledger, server.port, token):
        await asyncio.sleep(seconds)
        async with asyncio.timeout(SLOW):
            while not ledger.acknowledged:
                await asyncio.sleep(0.05)
    assert set(ledger.answers) == {201}, (ledger.answers, ledger.unexpected[:3])
    async with Client(server.port, token) as client:
        id = next(iter(ledger.acknowledged))
        assert (await client.request("GET", f"/items/{id}")).json()["id"] == str(id)
    assert await asyncio.to_thread(server.stop) in ENDS, server.output()
    assert "Traceback" not in server.output()
    assert "Warning" not in server.output()
    await audit(url, ledger)
    print(f"\nup after {started:.2f} s, {ledger.rate:.0f} writes/s")
