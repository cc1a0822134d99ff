"""Starlette as tutorials write it: a set of sockets, and a loop that sends to each."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

readers: set[WebSocket] = set()


async def reader(websocket: WebSocket) -> None:
    await websocket.accept()
    readers.add(websocket)
    try:
        async for message in websocket.iter_text():
            for each in readers:
                await each.send_text(message)
    finally:
        readers.discard(websocket)


app = Starlette(routes=[WebSocketRoute("/", reader)])
