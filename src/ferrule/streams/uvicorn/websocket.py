"""WebSockets under `ferrule serve`: uvicorn's protocol, with a wire for prebuilt frames.

It is uvicorn's for every route: who sends by ASGI notices nothing. Beyond that an application gets
a `FrameWire`, a peer that does not read is aborted instead of waited for, what waits for the
application and for the peer is bounded, and an idle connection holds little memory.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from ferrule.errors import Draining
from ferrule.http.problems import of_error
from ferrule.streams.wire import ABORT, EXTENSION, FrameWire

SLICE = 4096
"""Bytes that are taken apart in one turn of the loop: of the smallest frames some milliseconds."""
FRAGMENTS = 256
"""Parts of a message that are kept apart."""
FRAMES = 1024
"""Frames that may come at once beside whole messages: pings, pongs, small parts of a message."""
FRAMES_RATE = 200
"""The same in a second; who sends more is closed with `LIMIT`."""
PART = 1024
"""Bytes from which on a part is not counted: many clients send a message in parts of 4 KiB."""
LIMIT = 4504
"""As in `connection`, which counts the messages."""
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
MAX_REASON = 123
"""Bytes of the reason in a close frame."""

# Shared by all connections that are not paused: each event of its own takes most of a KiB.
_writable = asyncio.Event()
_writable.set()


class Inbox:
    """What `asyncio.Queue` does for the messages of a connection, in a tenth of its memory."""

    __slots__ = ("_loop", "_messages", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: list[Any] = []
        self._waiting: list[asyncio.Future[None]] = []

    def empty(self) -> bool:
        return not self._messages

    def put_nowait(self, message: Any) -> None:
        self._messages.append(message)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def get(self) -> Any:
        while not self._messages:
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                raise
        return self._messages.pop(0)


class FrameProtocol(WebSocketsSansIOProtocol):
    """A WebSocket connection of uvicorn, whose wire its scope has under `extensions`."""

    wire: FrameWire

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.queue = cast(Any, Inbox(self.loop))
        self.writable = _writable
        self._unread = b""
        self._parsing = False
        self._due = 0.0
        self._pong = b""

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire = FrameWire(self, self.transport, self.loop.time())
        # The protocol of the request and its parser hold each other until a collection.
        before: Any = self.transport.get_protocol()
        if getattr(before, "parser", None) is not None:
            before.parser = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unread = self._pong = b""
        self.wire.lost()

    def eof_received(self) -> None:
        # The transport closes once the peer has taken everything, if it does.
        self._bound()

    def pause_writing(self) -> None:
        self.wire.stops()
        self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        self.writable.set()
        self.writable = _writable
        if not self._is_open():
            return
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""
        self.wire.flows()

    def data_received(self, data: bytes) -> None:
        self.wire.heard_at = self.loop.time()
        self._unread += data
        self._read_on()

    # What the server and the application call

    def shutdown(self) -> None:
        drains = self.wire.drains and not self.config.should_reload
        if self.transport.is_closing() or (drains and self._is_open()):
            return
        if self.handshake_initiated and not self.handshake_complete and not self.initial_response:
            self.conn.send_response(self._draining())
            self._refuse()
        else:
            super().shutdown()
            self._bound()

    def send_keepalive_ping(self) -> None:
        if not self.wire.drains:
            super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._bound()

    def end(self, code: int, reason: str) -> None:
        """Send a close frame; the application is told of it by the disconnect that it receives."""
        if not self._is_open():
            return
        reason = reason.encode()[:MAX_REASON].decode(errors="ignore")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        cast(Any, self.scope)["ferrule.closed"] = code
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._bound()
        self._read_on()

    async def send(self, message: Any) -> None:
        kind = message["type"]
        await self.writable.wait()
        if self.close_sent and self.handshake_complete:
            # By the wire, or for a fault of the peer: the application may not know it yet.
            if kind == "websocket.close":
                return
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:
            # After an answer of HTTP uvicorn would still miss the handshake, and log an error.
            self.handshake_complete = True
            self._bound()
            self._read_on()
        elif kind == "websocket.accept" and self.handshake_complete:
            self.request = self.response = cast(Any, None)
            self.wire.flows()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if self.close_timer is None:
            self._bound()

    # What comes from the peer

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self._bound()
            return
        cast(Any, self.scope)["extensions"][EXTENSION] = self.wire
        if _reads_frames(self.conn):
            # A new parser, because the one that read the request keeps it for as long as it runs.
            self.conn.parser = super(ServerProtocol, self.conn).parse()
            next(self.conn.parser)

    def handle_cont(self, event: Frame) -> None:
        if not event.fin and len(event.data) < PART:
            self._count()
        if len(self.frames) >= FRAGMENTS:
            # Parts may be empty: without this a message of no size could fill the memory.
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                # uvicorn takes it for an error of the server's, and logs it so.
                self.frames = []
                self.conn.fail(1007, "A text is not UTF-8.")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        self._count()
        pongs = self.conn.data_to_send()
        if self.close_sent or not pongs:
            return
        if self.wire.flowing or self.conn.state is not State.OPEN:
            self.transport.write(b"".join(pongs))
        else:
            # Who pings and does not read gets the last answer alone (RFC 6455, 5.5.3).
            self._pong = pongs[-1]

    def handle_pong(self, event: Frame) -> None:
        self._count()
        super().handle_pong(event)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._bound()

    def handle_parser_exception(self) -> None:
        if self.close_sent:
            return
        sent = self.conn.close_sent
        code, reason = (1006, "") if sent is None else (sent.code, sent.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if sent is None:
            self.transport.close()
        else:
            self.close_sent = True
            # Not closed while the peer sends: the reset would overtake the close frame.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._read_on()
        self._bound()

    def _is_open(self) -> bool:
        """Whether frames of data may be sent."""
        closing = self.close_sent or self.transport.is_closing()
        return self.handshake_complete and not closing

    def _bound(self) -> None:
        """It is about to end: what the peer does not take within `ABORT` seconds is dropped."""
        self.wire.stops()
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        if not self.disconnected:
            self.close_timer = self.loop.call_later(ABORT, self.transport.abort)

    def _count(self) -> None:
        """Count a frame that the application does not see, and so cannot limit."""
        now = self.loop.time()
        self._due = max(self._due, now) + 1 / FRAMES_RATE
        if self._due - now > FRAMES / FRAMES_RATE and not self.transport.is_closing():
            # From here on the parser takes nothing apart any more.
            self.conn.fail(LIMIT, "Too many frames.")
            self.handle_parser_exception()

    def _read_on(self) -> None:
        """Take apart what has come, as far as the application reads, and then read what comes."""
        if self.close_sent:
            self.read_paused = False
        if self._parsing or self.read_paused:
            return
        data, self._unread = self._unread[:SLICE], self._unread[SLICE:]
        if data:
            self._parsing = True
            super().data_received(data)
            self._parsing = False
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse_request()
        if self.transport.is_closing():
            self._unread = b""
        elif self._unread and not self.read_paused:
            # Others have their turn before the next slice.
            self._parsing = True
            self.transport.pause_reading()
            self.loop.call_soon(self._next_slice)
        elif not self.read_paused:
            self.transport.resume_reading()

    def _draining(self) -> Response:
        """As the edge answers who comes a moment later."""
        request_id = cast(Any, self.scope).get("ferrule.request_id", "")
        answer = of_error(Draining(), request_id=request_id)
        response = self.conn.reject(answer.status_code, "")
        response.body = bytes(answer.body)
        for name, value in answer.headers.items():
            response.headers.pop(name, None)
            response.headers[name] = value
        return response

    def _refuse_request(self) -> None:
        """Send what the parser answers to a request that it does not take, as of a long header.

        uvicorn leaves the answer where it is, and the connection open.
        """
        self._refuse()

    def _refuse(self) -> None:
        # Of some requests, as of those with a body, the parser has nothing to say.
        self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
        self.close_sent = self.handshake_complete = True
        self.transport.close()
        self._bound()

    def _next_slice(self) -> None:
        self._parsing = False
        self._read_on()


def _reads_frames(conn: ServerProtocol) -> bool:
    """Whether its parser has read the request and stands before the first frame."""
    inner = getattr(conn.parser, "gi_yieldfrom", None)
    waiting = getattr(inner, "gi_yieldfrom", None)
    return getattr(waiting, "gi_code", None) is StreamReader.at_eof.__code__
