"""A server that is told to stop finishes what it has begun."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.drills.client import Client, sign_in
from tests.drills.ledger import held, stored_items
from tests.server import HOST, Server


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


@pytest.mark.drill
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
async def test_t5_no_new_connection_is_reset_while_workers_are_replaced(
    make_server: Callable[..., Server], url: str
) -> None:
    # Behind a listening socket that they share, as it is with a supervisor or a second server.
    server = make_server(DATABASE_URL=url, LOG_LEVEL="info")
    server.start("--workers", "2")
    answers: Counter[str] = Counter()
    stopping = asyncio.Event()
    clients = [asyncio.create_task(_connect(server.port, answers, stopping)) for _ in range(8)]
    for rollover in range(1, 3):
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(120):
            while server.output().count("Finished server process") < 2 * rollover:
                await asyncio.sleep(0.1)
    stopping.set()
    await asyncio.gather(*clients)
    assert await asyncio.to_thread(server.stop) == 0
    print(f"\n{answers}")
    assert set(answers) == {"200"}, answers


@pytest.mark.drill
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_t5_who_waits_to_be_accepted_is_not_reset(server: Server) -> None:
    # Nobody else listens: new connections are refused, but none that stands in the queue is lost.
    answers: Counter[str] = Counter()
    for _ in range(4):
        server.start()
        stopping = asyncio.Event()
        clients = [asyncio.create_task(_connect(server.port, answers, stopping)) for _ in range(16)]
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        refused = answers["ConnectionRefusedError"]
        while answers["ConnectionRefusedError"] == refused:
            await asyncio.sleep(0.01)
        stopping.set()
        await asyncio.gather(*clients)
        assert await asyncio.to_thread(server.exit_status) == 0
    print(f"\n{answers}")
    assert set(answers) == {"200", "ConnectionRefusedError"}, answers


async def _connect(port: int, answers: "Counter[str]", stopping: asyncio.Event) -> None:
    """Ask by a new connection each time; what an answer begins with, or how it failed."""
    request = b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    while not stopping.is_set():
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                # A client that takes a moment, as over a network.
                await asyncio.sleep(0.005)
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
            answers[answer[9:12].decode() or "nothing"] += 1
        except OSError as error:
            answers[type(error).__name__] += 1
