"""A server that is told to stop finishes what it has begun."""

import asyncio
import signal

import pytest

from tests.drills.client import Client, sign_in
from tests.drills.ledger import held, stored_items
from tests.server import Server


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.drill)]
)
async def test_requests_under_way_are_finished(
    server: Server, url: str, number: signal.Signals
) -> None:
    server.start()
    token = await sign_in(server.port)
    clients = [Client(server.port, token) for _ in range(10)]
    async with held(url):
        requests = [
            asyncio.create_task(client.request("POST", "/items", {"name": f"item {index}"}))
            for index, client in enumerate(clients)
        ]
        await asyncio.sleep(0.5)
        server.process.send_signal(number)
        await asyncio.sleep(0.5)
        assert not any(request.done() for request in requests)
        assert server.process.poll() is None
    answers = await asyncio.gather(*requests)
    assert [answer.status for answer in answers] == [201] * len(clients)
    assert await asyncio.to_thread(server.exit_status) == 0
    assert "Traceback" not in server.output()
    assert len(await stored_items(url)) == len(clients)
    for client in clients:
        client.close()
