"""Routes of an author's own, each with live connections in it."""

import asyncio

from fastapi import APIRouter, WebSocket

from ferrule import Administrator, SignedIn
from ferrule.streams import Connections

router = APIRouter()


@router.websocket("/cursors/{board}")
async def cursors(websocket: WebSocket, board: str, actor: SignedIn, manager: Connections) -> None:
    async with manager.connect(websocket, actor) as connection:
        connection.join(f"cursors/{board}")
        async for message in connection:
            connection.broadcast(f"cursors/{board}", message)


@router.websocket("/clock")
async def clock(websocket: WebSocket, actor: SignedIn, manager: Connections) -> None:
    """Sends, and receives nothing."""
    async with manager.connect(websocket, actor) as connection:
        connection.join("clock")
        while True:
            connection.send({"tick": True})
            await asyncio.sleep(0.02)


@router.websocket("/patient")
async def patient(websocket: WebSocket, actor: SignedIn, manager: Connections) -> None:
    """Takes its time with each message."""
    async with manager.connect(websocket, actor) as connection:
        connection.join("patient")
        async for message in connection:
            await asyncio.sleep(0.05)
            heard.append(message["n"])


@router.websocket("/tidy")
async def tidy(websocket: WebSocket, actor: SignedIn, manager: Connections) -> None:
    """Does something after the connection."""
    async with manager.connect(websocket, actor) as connection:
        await connection.receive()
    await asyncio.sleep(0.1)
    heard.append(1)


@router.websocket("/thinking")
async def thinking(websocket: WebSocket, actor: SignedIn, manager: Connections) -> None:
    """Asks once, and thinks for ever."""
    async with manager.connect(websocket, actor) as connection:
        await connection.receive()
        await asyncio.Event().wait()


@router.websocket("/broken")
async def broken(websocket: WebSocket, actor: SignedIn, manager: Connections) -> None:
    async with manager.connect(websocket, actor) as connection:
        connection.join("broken")
        await connection.receive()
        raise RuntimeError("canary7f3a")


@router.websocket("/administration")
async def administration(websocket: WebSocket, actor: Administrator, manager: Connections) -> None:
    async with manager.connect(websocket, actor) as connection:
        async for message in connection:
            connection.send(message)


heard: list[int] = []
