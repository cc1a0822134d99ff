"""The wire: how messages reach the socket of a connection, encoded once for all who read them."""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from starlette.websockets import WebSocket, WebSocketDisconnect

if TYPE_CHECKING:
    from ferrule.streams.audience import Audience

ABORT = 2.0
"""Seconds that a peer gets to take what was sent and to answer the close frame."""
WAITING = 64
"""Messages that may wait in an `AsgiWire` while it flows."""
HIGH = 65_536
"""Bytes of them."""
EXTENSION = "ferrule.wire"
"""Where the scope of a WebSocket has its wire, under `extensions`."""
TRANSPORT = "ferrule.transport"
"""Where the scope of a request has the transport of its connection: how much waits in it, and what
aborts it."""

TEXT = 0x81
PING = b"\x89\x00"


class Message:
    """A text message, encoded once whatever the number of readers: `text` is UTF-8."""

    __slots__ = ("frame", "string", "text")
    frame: bytes
    """The whole WebSocket frame, unmasked and uncompressed (RFC 6455, 5.2)."""
    string: str
    """The text as servers take it from an ASGI application."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        # Made when it is first wanted; from then on nothing stands between it and a reader.
        if name == "frame":
            self.frame = _head(len(self.text)) + self.text
            return self.frame
        if name == "string":
            self.string = self.text.decode()
            return self.string
        raise AttributeError(name)


def _head(length: int) -> bytes:
    if length < 126:
        return bytes((TEXT, length))
    if length < 65_536:
        return struct.pack("!BBH", TEXT, 126, length)
    return struct.pack("!BBQ", TEXT, 127, length)


class Wire(Protocol):
    """How a connection's messages reach the socket, once it is accepted."""

    flowing: bool
    """Whether it takes messages: not while much waits for the peer, and not once it is closed."""
    heard_at: float
    """When the peer was last heard of, by `loop.time()`. Who receives messages may set it, too."""
    drains: bool
    """Set by an application that looks after the connection itself: whether the peer is alive, and
    how it ends when the server stops."""
    on_flowing: Callable[[], None] | None
    """Called when it flows again, to write what was kept until then before anything else is."""
    on_lost: Callable[[], None] | None
    """Called once, when nothing can be sent or received any more."""

    @property
    def pings(self) -> bool:
        """Whether it sends pings of the protocol, which peers answer by themselves."""
        ...

    @property
    def untaken(self) -> int:
        """Bytes that the peer has not taken yet, as far as that is known."""
        ...

    def write(self, message: Message) -> None:
        """Send a message, in order, without waiting; only while it flows."""
        ...

    def ping(self) -> None:
        """Ask the peer for a sign of life; nothing where `pings` is false."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Send the close frame after what was written; the peer has `ABORT` seconds for it.

        `websocket.receive` then gives a disconnect with this code. Of several calls the first
        counts.
        """
        ...

    def abort(self) -> None:
        """End it at once; what was not sent yet is lost."""
        ...

    async def ended(self) -> None:
        """Wait until nothing of it runs any more: the last thing that a connection does."""
        ...


def untaken(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken: those of the transport, and on Linux those of the kernel.

    The kernel asks for more only when a third of what it holds is gone: a peer that reads slowly
    takes for long, and nothing of it is seen in the transport.
    """
    waiting = transport.get_write_buffer_size()
    try:
        # There is none for Windows.
        import fcntl
        import termios

        descriptor = transport.get_extra_info("socket").fileno()
        (held,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    except (ImportError, OSError, ValueError):
        # Another system, or it is closed.
        return waiting
    return waiting + held


class Owner(Protocol):
    """What a `FrameWire` asks of the server's protocol."""

    def end(self, code: int, reason: str) -> None:
        """Send a close frame and have the connection end soon."""
        ...


class FrameWire:
    """Writes prebuilt frames into the transport; a protocol of ours says how it fares.

    Whoever has it in an `Audience` is written to past it, for as long as `flowing` is true: that is
    changed by `flows` and `stops` alone, which tell the audiences.
    """

    __slots__ = (
        *("_owner", "audiences", "drains", "flowing", "heard_at", "on_flowing", "on_lost"),
        "transport",
    )
    pings = True

    def __init__(self, owner: Owner, transport: asyncio.Transport, heard_at: float) -> None:
        self._owner: Owner | None = owner
        self.transport = transport
        self.audiences: list[Audience[Any]] = []
        """Who write into the transport themselves, as long as it flows."""
        self.flowing = False
        self.heard_at = heard_at
        self.drains = False
        self.on_flowing: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    @property
    def untaken(self) -> int:
        return untaken(self.transport)

    def write(self, message: Message) -> None:
        self.transport.write(message.frame)

    def ping(self) -> None:
        if self.flowing:
            self.transport.write(PING)

    def close(self, code: int, reason: str = "") -> None:
        if self._owner is not None:
            self._owner.end(code, reason)

    def abort(self) -> None:
        self.stops()
        if self._owner is not None:
            self.transport.abort()

    async def ended(self) -> None:
        """At once: the server's own task outlives the application, and sees to the end."""

    def flows(self) -> None:
        """The protocol says that the transport takes messages, for the first time or again.

        `on_flowing` writes what was kept meanwhile, at once: when this returns, all of it is
        written, or the wire has stopped again.
        """
        self._set_flowing(True)
        if self.on_flowing is not None:
            self.on_flowing()

    def stops(self) -> None:
        """The protocol says that the transport takes no more, for now or for ever."""
        self._set_flowing(False)

    def lost(self) -> None:
        """The protocol says that the connection is gone."""
        told, self.on_lost, self.on_flowing = self.on_lost, None, None
        self._owner = None
        self.stops()
        if told is not None:
            told()

    def _set_flowing(self, flowing: bool) -> None:
        self.flowing = flowing
        for audience in self.audiences:
            audience.changed()


class AsgiWire:
    """For servers of all kinds: messages wait in a queue for `websocket.send`.

    A task sends them while there are any; `await ended()` leaves none behind.
    """

    pings = False

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._waiting: deque[Message] = deque()
        self._closing: tuple[int, str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._over = False
        self.buffered = 0
        self.flowing = True
        self.heard_at = asyncio.get_running_loop().time()
        self.drains = False
        self.on_flowing: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    def write(self, message: Message) -> None:
        if self._closing is not None or self._over:
            return
        self._waiting.append(message)
        self.buffered += len(message.text)
        if len(self._waiting) > WAITING or self.buffered > HIGH:
            self.flowing = False
        self._start()

    @property
    def untaken(self) -> int:
        return self.buffered

    def ping(self) -> None:
        """Nothing: an ASGI server does not let the application send one."""

    def close(self, code: int, reason: str = "") -> None:
        if self._closing is not None or self._over:
            return
        self._closing = (code, reason)
        self.flowing = False
        # A task that sends sees it when it is done; the limit stands for both.
        self._start()
        self._limit = asyncio.get_running_loop().call_later(ABORT, self.abort)

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._lost()

    async def ended(self) -> None:
        task = self._task
        if self._closing is None:
            self.abort()
        try:
            if task is not None:
                await asyncio.wait([task])
        finally:
            self.abort()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                await self._websocket.send({"type": "websocket.send", "text": message.string})
                self.buffered -= len(message.text)
                self._flow()
            if self._closing is not None:
                code, reason = self._closing
                await self._websocket.close(code, reason)
                self._lost()
        except (WebSocketDisconnect, RuntimeError, OSError):
            # The peer left, or the application has closed it: what it receives says so.
            self._lost()
        finally:
            self._task = None

    def _flow(self) -> None:
        """Flow again once most of what waited is sent."""
        few = len(self._waiting) <= WAITING // 4 and self.buffered <= HIGH // 4
        if not self.flowing and few and self._closing is None and not self._over:
            self.flowing = True
            if self.on_flowing is not None:
                self.on_flowing()

    def _lost(self) -> None:
        told, self.on_lost, self.on_flowing = self.on_lost, None, None
        self._over, self.flowing = True, False
        self._waiting.clear()
        self.buffered = 0
        if self._limit is not None:
            self._limit.cancel()
        if told is not None:
            told()


def wire_of(websocket: WebSocket) -> Wire:
    """The wire of an accepted WebSocket: frames of ours where `ferrule serve` runs it."""
    found = websocket.scope.get("extensions", {}).get(EXTENSION)
    return cast(FrameWire, found) if found is not None else AsgiWire(websocket)
