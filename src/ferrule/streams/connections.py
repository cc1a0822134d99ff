"""The connection manager: who is connected here, in which rooms, and what all of them are sent."""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from ferrule.actor import Actor, Door
from ferrule.db.database import Database
from ferrule.errors import Draining, Error, TooManyRequests, Unauthenticated
from ferrule.http.sockets import FAILED, POLICY
from ferrule.kit import Kit
from ferrule.streams.allowance import Allowance
from ferrule.streams.audience import Audience
from ferrule.streams.channels import CONTROL, KICK
from ferrule.streams.connection import (
    BAD_TOKEN,
    EXPIRED,
    KICKED,
    Closed,
    Connection,
    Peer,
    encoded,
)
from ferrule.streams.node import Node
from ferrule.streams.settings import StreamsSettings
from ferrule.streams.wire import Message

TICK = 1.0
"""Seconds between two looks at what has become of connections."""
SOON = 0.5
"""Seconds in which those who may have lost something are looked at, from when it is told."""
AGAIN = 0.2
"""Seconds until the database is asked again after it did not answer."""
TOGETHER = 0.2
"""Seconds in which users who come and go are told of together."""
BATCH = 100
"""Connections that are looked at without a pause in between."""
GOING_AWAY = 1001
RETRY_AFTER = {"Retry-After": "5"}
ROOM, USER = "room", "user"

log = structlog.get_logger("ferrule.streams")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are in this process."""

    connections: int
    users: int
    rooms: int


class ConnectionManager:
    """The live connections of this process, and the way to those of all others.

        @router.websocket("/boards/{id}/cursors")
        async def cursors(
            websocket: WebSocket, id: UUID, actor: SignedIn, manager: Connections
        ) -> None:
            async with manager.connect(websocket, actor) as connection:
                connection.join(f"boards/{id}/cursors")
                async for message in connection:
                    connection.broadcast(f"boards/{id}/cursors", message)

    What is sent this way is not stored: who is not there does not get it. Rooms are names; that
    their members may be in them is the route's to decide.
    """

    def __init__(self, kit: Kit, node: Node, doors: Sequence[Door], settings: StreamsSettings):
        self._kit = kit
        self._node = node
        self._doors = {door.name: door for door in doors}
        self._settings = settings
        self._peers: dict[str, Peer] = {}
        self._users: dict[UUID | None, dict[str, Peer]] = {}
        self._rooms: dict[str, Audience[Connection]] = {}
        self._looking: dict[UUID, float | None] = {}
        """Users who are looked at, and since when they have to be once more."""
        self._signals: dict[UUID | None, Allowance] = {}
        self._comings: dict[tuple[str, str], bool] = {}
        self._addresses: Counter[str | None] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._told_of_server = False
        self.draining = False
        node.on(ROOM, self._told_room)
        node.on(USER, self._told_user)

    @asynccontextmanager
    async def connect(
        self, websocket: WebSocket, actor: Actor, *, subprotocol: str | None = None
    ) -> AsyncGenerator[Connection]:
        """Accept a connection, and forget it at the end of the block, whatever happens.

        Refuses before it accepts, with `TooManyRequests`, where the user or the address has too
        many. When the peer goes away, the block ends, also if it only sends.
        """
        async with self.opened(websocket, actor, subprotocol=subprotocol) as connection:
            connection.pings = False
            async with connection.attended():
                yield connection

    @asynccontextmanager
    async def opened(
        self, websocket: WebSocket, actor: Actor, *, subprotocol: str | None = None
    ) -> AsyncGenerator[Connection]:
        """The same for a block that always receives, and so sees itself when the peer goes."""
        connection = Connection(self, websocket, actor, self._settings)
        try:
            await self.enter(connection)
            await connection.accept(subprotocol)
            self._tell_of_server(connection)
            yield connection
        except Closed:
            pass
        except BaseException as error:
            connection.end(_code(error))
            raise
        finally:
            # Whoever waits for the end is not counted any more.
            self.disconnect(connection)
            await connection.ended()

    async def enter(self, peer: Peer) -> None:
        """Count somebody in, until `disconnect`; refuse whose login has ended."""
        self.register(peer)
        try:
            # What ended it while they came in was told to those who were here.
            actor = await self.renew(peer.actor)
            if actor is None:
                raise Unauthenticated
            await peer.renewed(actor)
        except BaseException:
            self.disconnect(peer)
            raise

    def register(self, peer: Peer) -> None:
        """Count somebody in; `TooManyRequests` if there are too many of the same."""
        if self.draining:
            raise Draining
        user, address = peer.actor.id, peer.address
        if user is not None and len(self._users.get(user, ())) >= self._settings.per_user:
            raise TooManyRequests(
                "You have too many live connections: close some.", headers=RETRY_AFTER
            )
        if address is not None and self._addresses[address] >= self._settings.per_address:
            raise TooManyRequests(
                "There are too many live connections from your address.", headers=RETRY_AFTER
            )
        self._peers[peer.id] = peer
        self._users.setdefault(user, {})[peer.id] = peer
        self._addresses[address] += 1

    def disconnect(self, peer: Peer) -> None:
        """Forget somebody, and close what is open. Nobody else of the same user is touched."""
        if self._peers.pop(peer.id, None) is None:
            return
        of_user = self._users[peer.actor.id]
        del of_user[peer.id]
        if not of_user:
            del self._users[peer.actor.id]
        self._addresses[peer.address] -= 1
        if not self._addresses[peer.address]:
            del self._addresses[peer.address]
        if isinstance(peer, Connection):
            for room in list(peer.rooms):
                self.leave(peer, room)
        peer.end(1000)

    def join(self, connection: Connection, room: str) -> None:
        """Let a connection take part in a room."""
        audience = self._rooms.setdefault(room, Audience())
        audience.add(connection, connection.frames)
        connection.rooms.add(room)

    def leave(self, connection: Connection, room: str) -> None:
        connection.rooms.discard(room)
        audience = self._rooms.get(room)
        if audience is not None:
            audience.discard(connection)
            if not audience:
                del self._rooms[room]

    def broadcast(self, room: str, data: Any, *, but: Connection | None = None) -> None:
        """Send JSON to all connections in a room, on every node; it is encoded once."""
        message = encoded(data)
        self._broadcast(room, message, but)
        self._node.tell(ROOM, b"\n".join((json.dumps(room).encode(), message.text)))

    def send_to_user(self, user_id: UUID, data: Any) -> None:
        """Send JSON to all connections of a user, on every node."""
        message = encoded(data)
        self._send_to_user(user_id, message)
        self._node.tell(USER, b"\n".join((str(user_id).encode(), message.text)))

    def may_signal(self, user_id: UUID) -> bool:
        """Count a signal: each goes to all in a room, so a user's connections share one rate."""
        allowance = self._signals.get(user_id)
        if allowance is None:
            # Each goes to many: at once no more than in a second.
            allowance = Allowance(self._settings.rate, max(1, int(self._settings.rate)))
            self._signals[user_id] = allowance
        return allowance.spend()

    def present_changed(self, room: str, who: str, joined: bool) -> None:
        """Tell the room soon, in this process: each node finds out by itself.

        Who comes and goes before it is told has not been there, so that nobody makes much of it.
        """
        if not self._comings:
            asyncio.get_running_loop().call_later(TOGETHER, self._tell_comings)
        if self._comings.pop((room, who), None) is None:
            self._comings[room, who] = joined

    def _tell_comings(self) -> None:
        comings, self._comings = self._comings, {}
        for (room, who), joined in comings.items():
            # Of a channel with presence, the stream has the channel's name.
            message = encoded({"t": "join" if joined else "leave", "ch": room, "who": who})
            self._broadcast(room, message)

    async def kick(self, user_id: UUID) -> None:
        """Close all connections of a user, on every node; they are told not to come back."""
        self.kicked(user_id)
        async with self._kit[Database].write() as session:
            session.emit(CONTROL, KICK, {"user": str(user_id)})

    def kicked(self, user_id: UUID) -> None:
        """The same in this process."""
        for peer in list(self._users.get(user_id, {}).values()):
            peer.end(KICKED, "kicked")

    def counts(self) -> Counts:
        users = len(self._users) - (None in self._users)
        return Counts(len(self._peers), users, len(self._rooms))

    def in_room(self, room: str) -> int:
        """How many connections of this process are in a room."""
        return len(self._rooms.get(room, ()))

    def recheck(self, user_id: UUID | None = None) -> None:
        """Look again at who a user is now, and at what they may; None for all users."""
        if user_id is None:
            # It is not known that anybody has lost anything: this may take its time.
            self._spawn(self._look_again_at(list(self._peers.values()), within=None))
        elif user_id in self._users:
            looking = user_id in self._looking
            if self._looking.get(user_id) is None:
                self._looking[user_id] = asyncio.get_running_loop().time()
            if not looking:
                self._spawn(self._look_at_user(user_id))

    def recheck_readers(self, stream: str) -> None:
        """Look again at everybody who reads a stream."""
        peers = [peer for peer in self._peers.values() if peer.reads(stream)]
        if peers:
            self._spawn(self._look_again_at(peers, within=SOON))

    async def drain(self, seconds: float) -> None:
        """Send everybody away over this time, so that they do not come back all at once."""
        self.draining = True
        peers = list(self._peers.values())
        random.shuffle(peers)
        tasks = [
            self._spawn(peer.drain(seconds * number / len(peers)))
            for number, peer in enumerate(peers, 1)
        ]
        if tasks:
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look after the connections until the block ends, which ends them."""
        self._spawn(self._tick_all())
        try:
            yield
        finally:
            for peer in list(self._peers.values()):
                peer.end(GOING_AWAY)
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)

    def _tell_of_server(self, connection: Connection) -> None:
        """Log once what a server that is not ours does not do."""
        if not self._told_of_server and connection.frames is None:
            self._told_of_server = True
            log.warning(
                "WebSockets are served without prebuilt frames, pings and draining: run "
                "`ferrule serve` for these"
            )

    def _broadcast(self, room: str, message: Message, but: Connection | None = None) -> None:
        audience = self._rooms.get(room)
        if audience is not None:
            audience.send(message, lambda connection: connection.push(message), but)

    def _send_to_user(self, user_id: UUID, message: Message) -> None:
        for peer in self._users.get(user_id, {}).values():
            if isinstance(peer, Connection) and peer.accepted:
                peer.push(message)

    def _told_room(self, node: str, body: bytes) -> None:
        room, _, text = body.partition(b"\n")
        name = json.loads(room)
        if name in self._rooms:
            self._broadcast(name, Message(text))

    def _told_user(self, node: str, body: bytes) -> None:
        user, _, text = body.partition(b"\n")
        self._send_to_user(UUID(user.decode()), Message(text))

    async def _look_at_user(self, user_id: UUID) -> None:
        """Once more for all that was told meanwhile: who causes much of it gains nothing."""
        try:
            while (told := self._looking[user_id]) is not None:
                self._looking[user_id] = None
                peers = list(self._users.get(user_id, {}).values())
                late = asyncio.get_running_loop().time() - told
                await self._look_again_at(peers, within=SOON - late)
        finally:
            del self._looking[user_id]

    async def _look_again_at(self, peers: Sequence[Peer], *, within: float | None) -> None:
        """Look at them one after the other.

        Those whose turn does not come in time have to connect again: who has very much that must
        be looked at does not keep it for longer.
        """
        left = deque(peers)
        try:
            async with asyncio.timeout(within):
                while left:
                    await self.look_again(left[0])
                    left.popleft()
        except TimeoutError:
            for peer in left:
                peer.end(EXPIRED, "Connect again.")

    async def look_again(self, peer: Peer) -> None:
        """Ask who a peer is now and what they may, and end it where that is too little."""
        while peer.id in self._peers:
            try:
                await self._look_again(peer)
                break
            except (Error, OSError) as error:
                # Nobody stays because the database was away when it was asked.
                log.warning("a connection waits for the database", reason=type(error).__name__)
                await asyncio.sleep(AGAIN)
            except Exception as error:
                log.error("a connection was not looked at", exc_info=error)
                peer.end(KICKED, "internal error")
                break

    async def _look_again(self, peer: Peer) -> None:
        while True:
            asked = peer.actor
            actor = await self.renew(asked)
            # Another token may have been shown meanwhile.
            if peer.actor is asked:
                break
        if actor is None:
            peer.end(BAD_TOKEN, "Sign in again.")
            return
        try:
            await peer.renewed(actor)
        except Error as error:
            if error.status >= 500:
                raise
            peer.end(KICKED, "You may not be here any more.")

    async def renew(self, actor: Actor) -> Actor | None:
        """Who an actor is now; None if they are nobody any more."""
        door = self._doors.get(actor.door or "")
        # A door of somebody who knows no way back lets in for good.
        if door is None or door.renew is None:
            return actor
        now = await door.renew(actor, self._kit)
        # Somebody else does not take a connection over.
        return now if now is not None and now.id == actor.id else None

    async def _tick_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            full = [user for user, signals in self._signals.items() if signals.full]
            for user in full:
                del self._signals[user]
            for number, peer in enumerate(list(self._peers.values())):
                if number % BATCH == 0:
                    await asyncio.sleep(0)
                try:
                    peer.tick(loop.time())
                except Exception as error:
                    log.error("a connection failed", exc_info=error)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="ferrule-streams-connections")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _code(error: BaseException) -> int:
    """How a connection ends whose block has raised this (RFC 6455, 7.4.1)."""
    if isinstance(error, Error) and error.status < 500:
        return POLICY
    return FAILED if isinstance(error, Exception) else GOING_AWAY


def _manager(connection: HTTPConnection) -> ConnectionManager:
    return connection.scope["ferrule.kit"][ConnectionManager]


Connections = Annotated[ConnectionManager, Depends(_manager)]
