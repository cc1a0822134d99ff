"""python-socketio: a room, and an event that is emitted to it."""

import os
from typing import Any

import socketio

PING = float(os.environ.get("BENCHMARK_PING", "25"))
server = socketio.AsyncServer(async_mode="asgi", ping_interval=PING)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: Any) -> None:
    await server.enter_room(sid, "arena")


@server.event
async def shout(sid: str, data: Any) -> None:
    await server.emit("shout", data, room="arena")
