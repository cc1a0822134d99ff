"""A live WebSocket connection: what it is sent, what it is allowed, how it ends."""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from pydantic_core import to_json as pydantic_json
from starlette.websockets import WebSocket

from ferrule.actor import Actor
from ferrule.db.types import uuid7
from ferrule.errors import Error
from ferrule.http.body import check_json
from ferrule.streams.allowance import Allowance
from ferrule.streams.room import Stopped
from ferrule.streams.settings import StreamsSettings
from ferrule.streams.wire import FrameWire, Message, Wire, wire_of

if TYPE_CHECKING:
    from ferrule.streams.connections import ConnectionManager

DRAINING: Final = 4001
EXPIRED: Final = 4005
SLOW: Final = 4008
NO_PONG: Final = 4012
FINAL: Final = 4500
"""From here on codes say: do not come back."""
BAD_REQUEST: Final = 4501
BAD_TOKEN: Final = 4502
KICKED: Final = 4503
LIMIT: Final = 4504
MAX_DEPTH = 32
MAX_KEPT = 4096
"""Messages kept for a connection that does not take them."""
AWAY = 1000
"""Milliseconds over which those who are sent away come back, at random."""
UNREAD = 16
"""Messages of a client that wait for the route to receive them."""
LINGER = 2.0
"""Seconds in which a route that reads may read what a peer said before it went."""
DISCONNECT: Final = {"type": "websocket.disconnect", "code": 1006}


class Closed(Stopped):
    """The connection has ended; `code` tells how."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The connection was closed ({code}).")
        self.code = code


class Peer:
    """Somebody who is connected, as the manager knows them: by identity."""

    def __init__(self, actor: Actor, address: str | None) -> None:
        self.id = uuid7().hex
        self.actor = actor
        self.address = address

    def end(self, code: int, reason: str = "") -> None:
        """End the connection."""
        raise NotImplementedError

    async def renewed(self, actor: Actor) -> None:
        """What the actor may do has changed."""
        self.actor = actor

    def reads(self, stream: str) -> bool:
        """Whether it reads this stream."""
        return False

    def tick(self, now: float) -> None:
        """A second has passed."""

    async def drain(self, after: float) -> None:
        """The server stops: end in this many seconds."""
        await asyncio.sleep(after)
        self.gone(DRAINING, int(random.uniform(0, AWAY)))  # noqa: S311
        self.end(DRAINING, "draining")

    def gone(self, code: int, after_ms: int) -> None:
        """Tell the peer that it is sent away, and in how many milliseconds to come back."""


class Connection(Peer):
    """One WebSocket connection. `ConnectionManager.connect` makes it.

    async for message in connection: ...
    """

    def __init__(
        self,
        manager: "ConnectionManager",
        websocket: WebSocket,
        actor: Actor,
        settings: StreamsSettings,
    ) -> None:
        client = websocket.client
        super().__init__(actor, client.host if client else None)
        self.manager = manager
        self.rooms: set[str] = set()
        self.asking: str | None = None
        """A stream of which it is not known yet whether it may be read."""
        self.code: int | None = None
        """The code by which it was closed from here."""
        self.on_renewed: Callable[[], Awaitable[None]] | None = None
        """Awaited when the actor may do something else than before; without it, who loses a role
        is sent away."""
        self.on_gone: Callable[[int, int], None] | None = None
        self.pings = True
        """Whether signs of life are sent as messages, too, for peers that see no others."""
        self._websocket = websocket
        self._settings = settings
        self._wire: Wire = cast(Wire, None)
        self._unread: asyncio.Queue[Any] | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._reads = self._receiving = self._lost = self._ended_owner = False
        self._over: Any = None
        self._lingering: asyncio.TimerHandle | None = None
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._stuck_since: float | None = None
        self._waiting = 0
        self._drained: asyncio.Event | None = None
        self._pinged_at = 0.0
        self._allowance = Allowance(settings.rate, settings.burst)

    async def accept(self, subprotocol: str | None = None) -> None:
        """Answer the handshake; the manager does it."""
        await self._websocket.accept(subprotocol)
        self._wire = wire_of(self._websocket)
        self._wire.drains = True
        self._wire.on_flowing = self._flow
        self._wire.on_lost = self._on_lost
        # Not all at once, of those who came at once.
        share = random.uniform(0, 0.5)  # noqa: S311
        self._pinged_at = asyncio.get_running_loop().time() - share * self._settings.ping
        if self.code is not None:
            # Kicked, or signed out, while the handshake went on.
            self._wire.close(self.code)

    @asynccontextmanager
    async def attended(self) -> AsyncGenerator[None]:
        """Receive in the background, so that a block that only sends ends with the connection."""
        self._owner = owner = cast(asyncio.Task[Any], asyncio.current_task())
        self._unread = asyncio.Queue(UNREAD)
        attending = asyncio.create_task(
            self._attend(self._unread), name="ferrule-streams-attending"
        )
        try:
            with self._ending(owner):
                yield
        finally:
            # From here on there is no block that could be ended.
            self._owner = None
            if self._lingering is not None:
                self._lingering.cancel()
            attending.cancel()
            # It may have been told to end while it was ending by itself.
            with self._ending(owner):
                await asyncio.wait([attending])
            if not attending.done():
                await asyncio.wait([attending])

    @contextmanager
    def _ending(self, owner: "asyncio.Task[Any]") -> Generator[None]:
        """Let the cancellation by which `_end_owner` ends a block go no further."""
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_end(owner):
                raise

    def _is_end(self, owner: "asyncio.Task[Any]") -> bool:
        """Whether a cancellation is that of `_end_owner`, and nobody else's, too."""
        ours, self._ended_owner = self._ended_owner, False
        return ours and not owner.uncancel()

    async def ended(self) -> None:
        """Wait until nothing of it runs any more."""
        if self.accepted:
            await self._wire.ended()

    def send(self, data: Any) -> bool:
        """Send JSON soon, without waiting; False if it was dropped: the peer takes nothing."""
        return self.push(encoded(data))

    def push(self, message: Message, *, anyhow: bool = False) -> bool:
        """The same for a message that was encoded before; `anyhow` keeps it beyond the bounds."""
        wire = self._wire
        if wire.flowing and not self._kept:
            wire.write(message)
            return True
        return self._keep(message, anyhow)

    @property
    def roomy(self) -> bool:
        """Whether what is sent now leaves at once."""
        return self._wire.flowing and not self._kept

    async def drained(self) -> None:
        """Return when what was sent has left; `Closed` if it will not."""
        while not self.roomy:
            if self.code is not None or self._lost:
                raise Closed(self.code or 1006)
            self._drained = self._drained or asyncio.Event()
            self._drained.clear()
            await self._drained.wait()

    def join(self, room: str) -> None:
        """Take part in what is broadcast to a room."""
        self.manager.join(self, room)

    def leave(self, room: str) -> None:
        self.manager.leave(self, room)

    def broadcast(self, room: str, data: Any) -> None:
        """Send to all others in a room, on every node; without waiting."""
        self.manager.broadcast(room, data, but=self)

    async def receive(self) -> dict[str, Any]:
        """The next message of the client, a JSON object; `Closed` when there is none any more."""
        received = await self._next()
        # Of whoever was sent away nothing is taken any more.
        if self.code is not None or received["type"] == "websocket.disconnect":
            raise Closed(self.code or received.get("code", 1006))
        self._wire.heard_at = asyncio.get_running_loop().time()
        text = received.get("text")
        if text is None:
            self._refuse(BAD_REQUEST, "Send text.")
        # Lone surrogates, which some servers let through, are no JSON.
        data = text.encode(errors="surrogatepass")
        if len(data) > self._settings.max_message:
            self._refuse(1009, "The message is too large.")
        if not self._allowance.spend():
            self._refuse(LIMIT, "Too many messages.")
        try:
            message = check_json(data, max_depth=MAX_DEPTH)
        except Error:
            message = None
        if not isinstance(message, dict):
            self._refuse(BAD_REQUEST, "Send a JSON object.")
        return cast(dict[str, Any], message)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                yield await self.receive()
        except Closed:
            return

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close it. What was sent before is sent first, if the peer takes it soon."""
        if self.code is None:
            self.code = code
            while self._kept and self._wire.flowing:
                self._wire.write(self._kept.popleft())
            self._kept.clear()
            if self.accepted:
                self._wire.close(code, reason)
            self._wake()

    def reads(self, stream: str) -> bool:
        return stream in self.rooms or stream == self.asking

    async def renewed(self, actor: Actor) -> None:
        lost = self.actor.roles - actor.roles
        await super().renewed(actor)
        if self.on_renewed is not None:
            await self.on_renewed()
        elif lost:
            # It was let in as somebody whom its route may not let in any more.
            self.end(KICKED, "Your roles have changed.")

    def gone(self, code: int, after_ms: int) -> None:
        if self.on_gone is not None:
            self.on_gone(code, after_ms)

    def tick(self, now: float) -> None:
        interval, wire = self._settings.ping, self._wire
        if self.actor.expired:
            self.end(EXPIRED, "The token has expired.")
        elif not self.accepted:
            return
        elif self._stuck_since is not None and self._is_stuck(now):
            self.end(SLOW, "Too slow.")
        elif wire.pings and not self._deaf and now - wire.heard_at > 2 * interval:
            self.end(NO_PONG, "No sign of life.")
        elif now - self._pinged_at >= interval:
            self._pinged_at = now
            wire.ping()
            if self.pings:
                self.push(PING)

    def _is_stuck(self, now: float) -> bool:
        """Whether the peer has taken nothing for too long of what waits for it."""
        before, self._waiting = self._waiting, self._wire.untaken
        if self._waiting < before:
            self._stuck_since = now
        return now - cast(float, self._stuck_since) > self._settings.stalled

    @property
    def _deaf(self) -> bool:
        """Whether nothing is heard of the peer because the route does not receive."""
        return self._unread is not None and self._unread.full()

    async def _next(self) -> Any:
        self._reads = self._receiving = True
        try:
            if self._unread is None:
                self._owner = asyncio.current_task()
                return await self._websocket.receive()
            if self._over is not None and self._unread.empty():
                return self._over
            return await self._unread.get()
        except asyncio.CancelledError:
            owner = cast(asyncio.Task[Any], self._owner)
            if self._unread is not None or not self._is_end(owner):
                raise
            return DISCONNECT
        finally:
            self._receiving = False

    async def _attend(self, unread: asyncio.Queue[Any]) -> None:
        while True:
            received = await self._websocket.receive()
            if received["type"] == "websocket.disconnect":
                break
            await unread.put(received)
        self._lost, self._over = True, received
        if self._receiving and unread.empty():
            unread.put_nowait(received)
        else:
            self._let_go()

    def _let_go(self) -> None:
        """End a block whose peer is gone; one that reads may read on for a moment."""
        if not self._reads or self.code is not None:
            self._end_owner()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._end_owner)

    def _end_owner(self) -> None:
        if self._owner is not None and not self._ended_owner:
            self._ended_owner = True
            self._owner.cancel()

    def _keep(self, message: Message, anyhow: bool) -> bool:
        """Keep a reference to what the transport does not take, within bounds."""
        if self._stuck_since is None:
            self._stuck_since = asyncio.get_running_loop().time()
        size = len(message.text)
        full = self._kept_bytes + size > self._settings.backlog or len(self._kept) >= MAX_KEPT
        if self.code is not None or (full and not anyhow):
            return False
        self._kept.append(message)
        self._kept_bytes += size
        return True

    def _flow(self) -> None:
        """The transport takes more: it made progress."""
        self._stuck_since = None
        while self._kept and self._wire.flowing:
            message = self._kept.popleft()
            self._kept_bytes -= len(message.text)
            self._wire.write(message)
        if not self._wire.flowing:
            self._stuck_since = asyncio.get_running_loop().time()
        elif not self._kept:
            self._wake()

    @property
    def frames(self) -> FrameWire | None:
        """Its wire, if that takes frames: with a server of ours."""
        return self._wire if isinstance(self._wire, FrameWire) else None

    @property
    def accepted(self) -> bool:
        """Whether the handshake was answered."""
        return cast(Any, self._wire) is not None

    def _on_lost(self) -> None:
        self._lost = True
        self._wake()
        if self._unread is not None:
            self._let_go()
        elif self._receiving and not self._wire.pings:
            # A server of others may not say so to who receives.
            self._end_owner()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set()

    def _refuse(self, code: int, reason: str) -> NoReturn:
        self.end(code, reason)
        raise Closed(code)


def encoded(data: Any) -> Message:
    """A message that is encoded once, for `push`."""
    if isinstance(data, Message):
        return data
    try:
        return Message(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    except TypeError:
        return Message(pydantic_json(data))


PING = encoded({"t": "ping"})
