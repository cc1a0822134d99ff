"""How `ferrule serve` stops: what was under way ends well, and nothing takes longer than it may."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from ferrule.cli import serve
from ferrule.cli.server import SETTLE
from ferrule.streams.uvicorn import unmet
from tests.server import HOST, Server
from tests.streams.peer import Peer

APP = """
import asyncio
from contextlib import asynccontextmanager

from fastapi import APIRouter, WebSocket
from ferrule import Anyone, Module, create_app
from ferrule.streams.wire import wire_of

router = APIRouter()
wires = []

@router.get("/slow")
async def slow(actor: Anyone, seconds: float) -> float:
    print("slow", flush=True)
    await asyncio.sleep(seconds)
    return seconds

@router.websocket("/live")
async def live(websocket: WebSocket, actor: Anyone) -> None:
    await websocket.accept()
    wire = wire_of(websocket)
    wire.drains = True
    wires.append(wire)
    await websocket.receive()

@router.websocket("/other")
async def other(websocket: WebSocket, actor: Anyone) -> None:
    await websocket.accept()
    await websocket.receive()

@asynccontextmanager
async def lifespan(kit):
    yield
    print("lifespan ended", flush=True)

async def drain(seconds: float | None) -> None:
    for wire in wires:
        wire.close(4001, "draining")
    await asyncio.sleep(0.2)
    print("drained over", seconds, flush=True)

app = create_app(modules=[Module(name="probes", router=router, lifespan=lifespan)])
app.drain = drain
"""


@pytest.fixture
def make(make_server: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    (tmp_path / "stopping.py").write_text(APP)

    def make(**settings: str) -> Server:
        server = make_server(APP="stopping:app", LOG_LEVEL="info", **settings)
        server.start()
        return server

    return make


async def _slow(server: Server, seconds: float) -> "asyncio.Task[httpx.Response]":
    """A request that takes so long, and has begun."""

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{server.port}") as client:
            return await client.get("/api/v1/slow", params={"seconds": seconds}, timeout=30)

    begun = server.output().count("slow")
    task = asyncio.create_task(get())
    while server.output().count("slow") == begun:
        await asyncio.sleep(0.02)
    return task


async def _refuses(port: int) -> None:
    """Return when nobody listens any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except ConnectionRefusedError:
            return
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.01)


async def test_live_connections_are_drained_while_requests_finish(
    make: Callable[..., Server],
) -> None:
    server = make()
    async with (
        Peer(server.port, "/api/v1/live") as live,
        Peer(server.port, "/api/v1/other") as other,
    ):
        slow = await _slow(server, 2)
        server.process.send_signal(signal.SIGTERM)
        assert await live.closed() == (4001, "draining")
        assert await other.closed() == (1012, "")
        assert not slow.done()
        assert (await slow).json() == 2
    assert await asyncio.to_thread(server.exit_status) == 0
    output = server.output()
    assert "Traceback" not in output
    assert output.index("drained") < output.index("lifespan ended")


async def test_who_presses_ctrl_c_does_not_wait(make: Callable[..., Server]) -> None:
    server = make()
    async with Peer(server.port, "/api/v1/live") as live:
        server.process.send_signal(signal.SIGINT)
        assert await live.closed() == (4001, "draining")
    assert await asyncio.to_thread(server.exit_status) == 0
    assert "drained over 0" in server.output()


async def test_t5_who_connected_before_is_answered(make: Callable[..., Server]) -> None:
    server = make()
    reader, writer = await asyncio.open_connection(HOST, server.port)
    # An answer, so that it is known to be accepted; then idle, as in the pool of a proxy.
    request = b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(request)
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    fresh, other = await asyncio.open_connection(HOST, server.port)
    await asyncio.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    await _refuses(server.port)
    for connection in (writer, other):
        connection.write(request.replace(b"/live", b"/ready"))
    for answer in (await reader.read(), await fresh.read()):
        assert b"HTTP/1.1 503" in answer
        assert b"draining" in answer
        assert b"connection: close" in answer
    for connection in (writer, other):
        connection.close()
        await connection.wait_closed()
    assert await asyncio.to_thread(server.exit_status) == 0


async def test_t6_the_grace_is_the_limit(make: Callable[..., Server]) -> None:
    server = make(HTTP__GRACE="1")
    slow = await _slow(server, 30)
    began = time.monotonic()
    assert await asyncio.to_thread(server.stop) == 0
    assert SETTLE + 1 <= time.monotonic() - began < 10
    with pytest.raises(httpx.HTTPError):
        (await slow).raise_for_status()
    assert "grace exceeded" in server.output()
    assert "lifespan ended" in server.output()


async def test_ctrl_c_twice_ends_it_at_once(make: Callable[..., Server]) -> None:
    server = make()
    slow = await _slow(server, 30)
    server.process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(server.exit_status) == 0
    with pytest.raises(httpx.HTTPError):
        (await slow).raise_for_status()


async def test_sigterm_twice_is_like_once(make: Callable[..., Server]) -> None:
    server = make()
    slow = await _slow(server, 1)
    for _ in range(2):
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
    assert (await slow).json() == 1
    assert await asyncio.to_thread(server.exit_status) == 0


@pytest.mark.parametrize("missing", [True, False])
def test_an_unknown_uvicorn_is_served_its_own_way(
    monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    protocols: Any = serve._protocols
    ours = "ferrule.streams.uvicorn"
    assert protocols() == (f"{ours}.http:HttpProtocol", f"{ours}.websocket:FrameProtocol")
    if missing:
        monkeypatch.setitem(sys.modules, f"{ours}.unmet", None)
    else:
        monkeypatch.setattr(unmet, "unmet", lambda: ["it changed"])
    with structlog.testing.capture_logs() as lines:
        assert protocols() == ("httptools", "auto")
    (line,) = lines
    assert line["log_level"] == "warning"
    assert line["reasons"]
