"""The protocol of HTTP that `ferrule serve` gives to uvicorn."""

import asyncio
import socket
from typing import Any

import pytest
import uvloop

from ferrule.streams.uvicorn import http
from tests.streams.peer import served, soon
from tests.streams.uvicorn.applications import (
    ABORT,
    HANDSHAKE,
    REQUEST,
    Answering,
    asking,
    on_both_loops,
)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "under way"])
def test_w4_who_reads_no_answer_is_aborted(complete: bool, loop: Any) -> None:
    async def scenario() -> None:
        app = Answering(complete=complete, size=10_000_000)
        async with served(app) as server, asking(server) as client:
            await soon(lambda: app.answering)
            # It waits behind the other, and keeps the connection from being idle.
            await asyncio.get_running_loop().sock_sendall(client, REQUEST)
            await soon(lambda: not server.server_state.connections)
            await soon(lambda: not server.server_state.tasks)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "open"])
def test_who_reads_slowly_gets_the_whole_answer(
    monkeypatch: pytest.MonkeyPatch, half: bool, loop: Any
) -> None:
    monkeypatch.setattr(http, "ABORT", 2 * ABORT)

    async def scenario() -> None:
        app = Answering(complete=True, size=3_000_000)
        running = asyncio.get_running_loop()
        async with served(app) as server, asking(server, room=100_000) as client:
            await soon(lambda: app.answering)
            if half:
                client.shutdown(socket.SHUT_WR)
            began, got = running.time(), 0
            while got < len(app.body):
                part = await running.sock_recv(client, 100_000)
                assert part, f"it ended after {got} bytes"
                got += len(part)
                await asyncio.sleep(0.05)
            assert running.time() - began > 2 * http.ABORT

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_a_request_learns_that_the_peer_left_though_another_waits_behind_it() -> None:
    app = Answering(complete=False, size=0)
    async with served(app) as server:
        async with asking(server) as client:
            await soon(lambda: app.answering)
            await asyncio.get_running_loop().sock_sendall(client, REQUEST)
            await asyncio.sleep(0.05)
        await soon(lambda: not server.server_state.tasks)


@on_both_loops
async def test_w4_the_answer_to_who_sends_no_more_and_reads_nothing_ends() -> None:
    app = Answering(complete=False, size=10_000_000)
    async with served(app) as server, asking(server) as client:
        await soon(lambda: app.answering)
        client.shutdown(socket.SHUT_WR)
        await soon(lambda: not server.server_state.connections)
        await soon(lambda: not server.server_state.tasks)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("complete", [True, False], ids=["unread", "under way"])
def test_w4_no_handshake_before_the_last_answer_is_taken(complete: bool, loop: Any) -> None:
    async def scenario() -> None:
        app = Answering(complete=complete, size=10_000_000 if complete else 0)
        async with served(app) as server:
            async with asking(server) as client:
                await soon(lambda: app.answering)
                await asyncio.get_running_loop().sock_sendall(client, HANDSHAKE)
                await soon(lambda: not server.server_state.connections)
            await soon(lambda: not server.server_state.tasks)
        assert app.wire is None

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@on_both_loops
async def test_who_pauses_after_the_answer_was_written_gets_all_of_it() -> None:
    app = Answering(complete=True, size=10_000_000)
    running = asyncio.get_running_loop()
    async with served(app) as server, asking(server, last=True) as client:
        await soon(lambda: app.answering)
        await asyncio.sleep(1.5 * ABORT)
        got = 0
        while part := await running.sock_recv(client, 1_000_000):
            got += len(part)
        assert got > len(app.body)
