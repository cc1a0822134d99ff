"""Streams over HTTP: server-sent events, pages, and pages that are waited for."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ferrule.actor import Actor
from ferrule.db.types import to_json
from ferrule.errors import Unauthenticated
from ferrule.streams.channels import Target
from ferrule.streams.connection import AWAY, DRAINING, EXPIRED, FINAL, SLOW, Peer
from ferrule.streams.connections import ConnectionManager
from ferrule.streams.events import Event, Page
from ferrule.streams.hub import Hub
from ferrule.streams.position import Position
from ferrule.streams.room import Stopped
from ferrule.streams.wire import ABORT, TRANSPORT, untaken

SSE = "text/event-stream"
HEARTBEAT = 15.0
"""Seconds between two comments, which keep the way open."""
RETRY = b"retry: 1000\n"
COMMENT = b":\n"
"""Both without the line that ends an event: some clients take that for an event without data."""
MAX_WAITING = 1000
"""Chunks that wait for a client; beyond, its events are read from the log later."""
MAX_BYTES = 262_144
PIECE = 32_768
"""Bytes from which on they are sent, before more is added to them."""

Authorize = Callable[[Actor], Awaitable[None]]


class EventStream(Peer):
    """Server-sent events for one client."""

    def __init__(
        self,
        hub: Hub,
        request: Request,
        actor: Actor,
        target: Target,
        authorize: Authorize,
        *,
        stalled: float,
    ) -> None:
        super().__init__(actor, request.client.host if request.client else None)
        self.ended = False
        self.cut_off: Callable[[], object] | None = None
        """Ends the answer, while there is one, though its client takes nothing any more."""
        self.waiting: Callable[[], int] = int
        """Bytes that the client has not taken, where that is known."""
        self._stalled = stalled
        self._sending_since: float | None = None
        self._waiting = 0
        self._hub = hub
        self._target = target
        self._authorize = authorize
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._given = asyncio.Event()
        self._taken = asyncio.Event()

    async def chunks(self, since: Position | None) -> AsyncGenerator[bytes]:
        """What the client is sent, until it or the actor's right ends."""
        reader = self._hub.join(self._target.stream, self, since)
        try:
            async with aclosing(self._waited_for()) as chunks:
                async for chunk in chunks:
                    # From here until the next is asked for it waits for the client.
                    self._sending_since = time.monotonic()
                    yield chunk
                    self._sending_since = None
        finally:
            await reader.stop()

    async def _waited_for(self) -> AsyncGenerator[bytes]:
        yield RETRY
        while not (self.ended and not self._chunks):
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._given.wait()
            except TimeoutError:
                yield COMMENT
                continue
            self._given.clear()
            while self._chunks:
                yield self._take()
            self._taken.set()

    def deliver(self, event: Event, epoch: str) -> bool:
        if self.ended or not self._roomy:
            return False
        self._give(event.chunk(epoch))
        return True

    def begun(self, epoch: str | None, top: int) -> None:
        """The first message with an id says where the client stands."""

    def live(self, epoch: str | None, offset: int) -> None:
        self._say("live", epoch, offset)

    def reset(self, epoch: str | None, offset: int) -> None:
        self._say("reset", epoch, offset)

    async def drained(self) -> None:
        while not (self._roomy or self.ended):
            self._taken.clear()
            await self._taken.wait()
        if self.ended:
            raise Stopped

    def broken(self) -> None:
        self.end(1011)

    def end(self, code: int, reason: str = "") -> None:
        if code > DRAINING and not self.ended:
            if code >= FINAL:
                # What waits is not for them any more.
                self._chunks.clear()
                self._bytes = 0
            # An answer has no close code: the last message says it.
            self.gone(code, int(random.uniform(0, AWAY)))  # noqa: S311
        self.ended = True
        self._given.set()
        self._taken.set()
        if self.cut_off is not None:
            asyncio.get_running_loop().call_later(ABORT, self._end_answer)

    def reads(self, stream: str) -> bool:
        return stream == self._target.stream

    async def renewed(self, actor: Actor) -> None:
        await super().renewed(actor)
        await self._authorize(actor)

    def gone(self, code: int, after_ms: int) -> None:
        gone = to_json({"t": "gone", "code": code, "after_ms": after_ms})
        self._give(f"retry: {after_ms}\ndata: {gone}\n\n".encode())

    def tick(self, now: float) -> None:
        if self.ended:
            return
        if self.actor.expired:
            self.end(EXPIRED)
        elif self._sending_since is not None:
            before, self._waiting = self._waiting, self.waiting()
            if self._waiting < before:
                self._sending_since = time.monotonic()
            elif time.monotonic() - self._sending_since > self._stalled:
                self.end(SLOW)

    def _end_answer(self) -> None:
        if self.cut_off is not None:
            self.cut_off()

    @property
    def _roomy(self) -> bool:
        return len(self._chunks) < MAX_WAITING and self._bytes < MAX_BYTES

    def _give(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._given.set()

    def _take(self) -> bytes:
        """A piece of what waits: a copy of this client's own, so it is a small one."""
        taken: list[bytes] = []
        size = 0
        while self._chunks and size < PIECE:
            taken.append(self._chunks.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return b"".join(taken)

    def _say(self, t: str, epoch: str | None, offset: int) -> None:
        said = to_json({"t": t, "ch": self._target.name, "epoch": epoch, "offset": offset})
        place = Position(offset, epoch)
        self._give(f"id: {place}\ndata: {said}\n\n".encode())


class EventStreamResponse(StreamingResponse):
    """Counts its client in before the answer begins, and out when it has ended, however it does."""

    media_type = SSE

    def __init__(
        self, manager: ConnectionManager, stream: EventStream, since: Position | None
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self._chunks = stream.chunks(since)
        super().__init__(self._chunks, headers=headers)
        self._manager = manager
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.enter(self._stream)
        task = cast(asyncio.Task[Any], asyncio.current_task())
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = task.cancel()

        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is not None:
            self._stream.cut_off = transport.abort
            self._stream.waiting = partial(untaken, transport)
        else:
            # Where the server lets nobody end a connection, the answer is, which says as much.
            self._stream.cut_off = cancel
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            if not cancelled or task.uncancel():
                raise
        finally:
            self._stream.cut_off = None
            self._manager.disconnect(self._stream)
            # A client that went while it was sent something leaves them where they were.
            await self._chunks.aclose()


class Waiting(Peer):
    """Waits for the next event of a stream, whichever it is."""

    def __init__(
        self, hub: Hub, request: Request, actor: Actor, target: Target, authorize: Authorize
    ) -> None:
        super().__init__(actor, request.client.host if request.client else None)
        self._request = request
        self._hub = hub
        self._stream = target.stream
        self._authorize = authorize
        self._come = asyncio.Event()

    async def page(
        self, manager: ConnectionManager, since: Position | None, limit: int, seconds: float
    ) -> tuple[Page, bool]:
        """The page after a place, waited for if it is empty; whether events are missing between.

        None: the first that is kept, before which nothing is missing.
        """
        page, reset = await self._read(since, limit)
        if page.rows or reset or seconds <= 0:
            return page, reset
        await manager.enter(self)
        try:
            await self._wait(Position(page.top, page.epoch), seconds)
            # Who lost their login or their right meanwhile is not told what happened then.
            actor = await manager.renew(self.actor)
            if actor is None or actor.expired:
                raise Unauthenticated
            await self._authorize(actor)
        finally:
            manager.disconnect(self)
        return await self._read(since, limit)

    async def _wait(self, since: Position, seconds: float) -> None:
        reader = self._hub.join(self._stream, self, since)
        left = asyncio.create_task(self._left(), name="ferrule-streams-waiting")
        try:
            async with asyncio.timeout(seconds):
                await self._come.wait()
        except TimeoutError:
            pass
        finally:
            left.cancel()
            await asyncio.wait([left])
            await reader.stop()

    async def _left(self) -> None:
        """Wait no longer for a client that has gone."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._come.set()

    async def _read(self, since: Position | None, limit: int) -> tuple[Page, bool]:
        page = await self._hub.page(self._stream, since.offset if since else 0, limit)
        if since is None:
            return page, False
        anew = since.epoch is not None and since.epoch != page.epoch
        if anew or since.offset < page.floor:
            return await self._hub.page(self._stream, page.floor, limit), True
        return page, since.offset > page.top

    def deliver(self, event: Event, epoch: str) -> bool:
        self._come.set()
        return True

    def begun(self, epoch: str | None, top: int) -> None:
        """The page was read before."""

    def live(self, epoch: str | None, offset: int) -> None:
        """Now it waits."""

    def reset(self, epoch: str | None, offset: int) -> None:
        self._come.set()

    async def drained(self) -> None:
        """There is always room."""

    def broken(self) -> None:
        self._come.set()

    def end(self, code: int, reason: str = "") -> None:
        self._come.set()

    async def renewed(self, actor: Actor) -> None:
        await super().renewed(actor)
        await self._authorize(actor)

    def tick(self, now: float) -> None:
        if self.actor.expired:
            self.end(EXPIRED)


def prefers_events(accept: str) -> bool:
    """Whether an Accept header would rather have event streams than JSON (RFC 9110, 12.5.1)."""
    weights: dict[str, float] = {}
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        weights[kind] = next((_weight(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
    events = weights.get(SSE, 0.0)
    return events > 0 and events >= weights.get("application/json", 0.0)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
