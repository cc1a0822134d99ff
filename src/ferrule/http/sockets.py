"""The edge of a WebSocket: refusals are answers of HTTP, and each connection leaves one line."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from ferrule.http.problems import problem, unexpected

DENIAL = "websocket.http.response"
"""The ASGI extension by which a handshake is answered with HTTP."""
DEFAULT_PORTS = {"http": 80, "https": 443}

NORMAL = 1000
ABNORMAL = 1006
POLICY = 1008
FAILED = 1011
"""Codes of close frames (RFC 6455, 7.4.1)."""


class Origins:
    """The pages that may open WebSockets: those from here, and those of listed origins.

    A browser sends cookies with every handshake, whichever page asks for it, and CORS has no say.
    What is no browser sends no Origin, and passes.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._listed = frozenset(map(_origin, listed))

    def allow(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"origin"]
        if not given or "*" in self._listed:
            return True
        origin = _origin(given[0].decode("latin-1"))
        return len(given) == 1 and (origin in self._listed or origin == _own(scope))


def _own(scope: Scope) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    scheme = "https" if scope["scheme"] in ("wss", "https") else "http"
    return _origin(f"{scheme}://{host.decode('latin-1')}")


def _origin(url: str) -> str:
    """The origin of an address, without the port that goes without saying."""
    url = url.strip().lower()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    if not parts.hostname or parts.scheme not in DEFAULT_PORTS:
        # `null`, `*`, and those of extensions: alike or not.
        return url
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = "" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


class Socket:
    """One WebSocket between the server and the application.

    `status` is what the handshake was answered with (101: it is open), `code` how it was closed.
    """

    __slots__ = (
        *("_gone", "_muted", "_on_answer", "_receive", "_scope", "_send", "_stamp"),
        *("code", "failed", "request_id", "started", "status"),
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        stamp: Callable[[Scope, Message, str], None],
        on_answer: Callable[[int, float], None],
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._stamp, self._on_answer = stamp, on_answer
        self._gone = self._muted = False
        self.request_id = request_id
        self.started = time.perf_counter()
        self.status = 0
        self.code: int | None = None
        self.failed = False
        """Whether it ended by a defect of ours, whatever its code says: peers have the same."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and self.code is None:
            self.code = message.get("code", ABNORMAL)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            await self._send(message)
        elif kind == "websocket.accept":
            named = (b"x-request-id", self.request_id.encode())
            await self._answer({**message, "headers": [*message.get("headers", ()), named]}, 101)
        elif kind == "websocket.close":
            await self._close(message)
        elif not self._muted:
            await self._deny(message)

    async def refuse(self, answer: Response) -> None:
        """Answer the handshake with this instead."""
        await answer(self._scope, self._receive, self.send)

    async def end(self) -> None:
        """See to what the application has left open by returning."""
        if not self.status:
            self.failed = True
            await self.refuse(problem(500, request_id=self.request_id))
        elif self.status == 101:
            # The wire closes past ASGI, and says so here.
            closed = self._scope.get("ferrule.closed")
            self.failed = self.failed or closed == FAILED
            self.code = self.code or closed
            await self.close(NORMAL)

    async def fail(self, error: Exception) -> None:
        """Log what the application raised, and tell the client as much as it may know."""
        if isinstance(error, WebSocketDisconnect) and self.status == 101:
            # The ordinary end of a route that only reads.
            if self.code is None:
                self.code = error.code
            return
        if self._gone and not self.status:
            # The peer did not wait for the answer.
            self.code = ABNORMAL
            return
        self.failed = True
        answer = await unexpected(HTTPConnection(self._scope), error)
        if not self.status:
            await self.refuse(answer)
        elif self.status == 101:
            await self.close(FAILED)

    async def close(self, code: int) -> None:
        """Close it, unless it is closed."""
        # The peer may be gone without anybody having asked.
        with suppress(OSError):
            await self._close({"type": "websocket.close", "code": code})

    async def _close(self, message: Message) -> None:
        if not self.status:
            # Starlette closes what no route knows.
            status = 403 if "endpoint" in self._scope else 404
            await self.refuse(problem(status, request_id=self.request_id))
        elif self.code is None and self.status == 101:
            self.code = message.get("code", NORMAL)
            await self._send(message)

    async def _deny(self, message: Message) -> None:
        """Pass on an answer of HTTP, where one may still be given and the server knows how."""
        if message["type"] != f"{DENIAL}.start":
            await self._send(message)
        elif self.status:
            self._muted = True
            await self.close(FAILED if message["status"] >= 500 else POLICY)
        elif DENIAL in self._scope.get("extensions", {}):
            self._stamp(self._scope, message, self.request_id)
            await self._answer(message, message["status"])
        else:
            # The server answers this with 403.
            self._muted = True
            await self._answer({"type": "websocket.close", "code": POLICY}, 403)

    async def _answer(self, message: Message, status: int) -> None:
        try:
            await self._send(message)
        except OSError:
            self._gone = True
            raise
        self.status = status
        self._on_answer(status, time.perf_counter() - self.started)
