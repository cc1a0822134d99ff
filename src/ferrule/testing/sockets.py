"""WebSockets for tests: the application is called in the test's own event loop."""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

DEADLINE = 10.0
"""Seconds to wait for a message."""


class Refused(Exception):
    """The handshake was refused; `status` and `body` are the HTTP answer."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


class Disconnected(Exception):
    """The server has closed the connection; `code` tells why."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class TestSocket:
    """One WebSocket; `async with TestSocket(app, "/api/v1/ws", headers) as socket: …`

    `send` and `receive` are JSON. `receive` raises `Disconnected` once the server has closed it;
    entering the block raises `Refused`.
    """

    __test__ = False

    def __init__(self, app: ASGIApp, target: str, headers: Mapping[str, str]) -> None:
        self._app = app
        path, _, query = target.partition("?")
        names = {"host": "testserver", **headers}
        self._scope: Scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in names.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._received: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._sent.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._run())
        try:
            first = await self._next()
            if first["type"] == "websocket.http.response.start":
                body = await self._next()
                raise Refused(first["status"], json.loads(body.get("body") or b"null"))
            if first["type"] != "websocket.accept":
                raise Refused(403, None)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def send(self, message: Any) -> None:
        """Send JSON; text as it is."""
        text = message if isinstance(message, str) else json.dumps(message)
        await self._sent.put({"type": "websocket.receive", "text": text})

    async def receive(self, *, within: float = DEADLINE) -> Any:
        """The next message; `TimeoutError` if none comes."""
        message = await self._next(within)
        if message["type"] == "websocket.close":
            raise Disconnected(message.get("code", 1000))
        text = message.get("text")
        return json.loads(text if text is not None else message["bytes"])

    async def _run(self) -> None:
        async def send(message: Message) -> None:
            await self._received.put(message)
            if message["type"] == "websocket.close":
                # As servers do: whoever receives learns that it is over.
                self._sent.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

        try:
            await self._app(self._scope, self._sent.get, send)
        finally:
            self._received.put_nowait({"type": "websocket.close", "code": 1006})

    async def _next(self, within: float = DEADLINE) -> Message:
        async with asyncio.timeout(within):
            return await self._received.get()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            self._sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
            _, pending = await asyncio.wait([task], timeout=DEADLINE)
            for each in pending:
                each.cancel()
            await asyncio.gather(task, return_exceptions=not pending)
