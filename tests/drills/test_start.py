"""Several servers that start at once, and servers that must not start."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills.client import Client, sign_in
from tests.drills.ledger import check_integrity, stored_items
from tests.server import HOST, Server


@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.drill)])
async def test_servers_that_start_at_once_agree(
    make_server: Callable[..., Server], url: str, count: int
) -> None:
    servers = [make_server(DATABASE_URL=url) for _ in range(count)]
    for server in servers:
        server.launch()
    await asyncio.gather(*(asyncio.to_thread(server.wait_until_healthy) for server in servers))
    # One secret and one schema: what the first one issued and stored is good for all others.
    token = await sign_in(servers[0].port)
    for server in servers:
        async with Client(server.port, token) as client:
            assert (await client.request("POST", "/items", {"name": "one"})).status == 201
    assert len(await stored_items(url)) == count
    await check_integrity(url)
    assert not any("Traceback" in server.output() for server in servers)


REFUSED = [
    ({"ENVIRONMENT": "production", "SECRET_KEY": "changeme"}, "FERRULE_SECRET_KEY"),
    ({"WORKRES": "2"}, "FERRULE_WORKERS"),
    ({"WORKERS": "2"}, "FERRULE_DATABASE_URL"),
]
"""Settings, and what is named. The safety of settings has tests of its own."""


def test_what_must_not_start_says_why_before_it_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Whatever tried to listen would end with 1, because the port is in use.
        taken.bind((HOST, 0))
        taken.listen()
        servers: list[Server] = []
        for number, (settings, _) in enumerate(REFUSED):
            folder = tmp_path / str(number)
            folder.mkdir()
            server = Server(folder, taken.getsockname()[1], **settings)  # type: ignore[arg-type]
            server.launch()
            servers.append(server)
        statuses = [server.exit_status() for server in servers]
    for server, status, (settings, named) in zip(servers, statuses, REFUSED, strict=True):
        output = server.output()
        assert status == 2, (settings, output)
        assert named in output, (settings, output)
        assert "Traceback" not in output, settings
        assert len(output.splitlines()) < 6, output
