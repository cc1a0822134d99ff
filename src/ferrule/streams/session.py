"""The protocol of `/ws`: what a client says, and what it is answered (docs/reference/live.md)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeGuard

import structlog
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from ferrule.actor import ANONYMOUS, identify
from ferrule.db.database import Database
from ferrule.db.failures import OutcomeUnknown
from ferrule.db.types import to_json
from ferrule.errors import (
    Conflict,
    Error,
    Forbidden,
    Invalid,
    TooManyRequests,
    Unauthenticated,
)
from ferrule.kit import Kit
from ferrule.streams.channels import Channels, Target
from ferrule.streams.connection import BAD_TOKEN, Connection
from ferrule.streams.connections import ConnectionManager
from ferrule.streams.events import Event
from ferrule.streams.hub import Hub
from ferrule.streams.position import Position
from ferrule.streams.presence import Presence
from ferrule.streams.room import Reader
from ferrule.streams.settings import StreamsSettings
from ferrule.streams.wire import Message

MAX_ID = 64
MAX_CHANNEL = 200
MAX_KEY = 200
MAX_SIGNAL = 4096
"""Bytes of a signal's data."""
OVERTAKEN = "Another message about this channel came before this one was done."
RETRY = frozenset({429, 503})
"""Statuses after which the same message may succeed later, unless it may have done so already."""

log = structlog.get_logger("ferrule.streams")


class Subscription:
    """A channel that a connection reads: what its reader hands the events to."""

    def __init__(self, session: "Session", target: Target, id: Any) -> None:
        self.target = target
        self.reader: Reader | None = None
        self.begins = True
        """Whether it was not answered yet."""
        self.present = False
        """Whether its user counts as present by it."""
        self._session = session
        self._connection = session.connection
        self._id = id

    def deliver(self, event: Event, epoch: str) -> bool:
        return self._connection.push(event.message)

    def begun(self, epoch: str | None, top: int) -> None:
        self.begins = False
        self._session.answer(self._id, "ok", ch=self.target.name, epoch=epoch, offset=top)
        self._session.entered(self)

    def overtaken(self) -> None:
        """Another message ended it before it began."""
        self._session.refuse(self._id, self.target.name, Conflict(OVERTAKEN))

    def live(self, epoch: str | None, offset: int) -> None:
        self._session.say("live", ch=self.target.name, epoch=epoch, offset=offset)

    def reset(self, epoch: str | None, offset: int) -> None:
        self._session.say("reset", ch=self.target.name, epoch=epoch, offset=offset)

    async def drained(self) -> None:
        await self._connection.drained()

    def broken(self) -> None:
        self._connection.end(1011, "internal error")


class Session:
    """One client of `/ws`."""

    def __init__(self, kit: Kit, connection: Connection, request: HTTPConnection) -> None:
        self.connection = connection
        self._database = kit[Database]
        self._channels = kit[Channels]
        self._manager = kit[ConnectionManager]
        self._hub = kit[Hub]
        self._presence = kit[Presence]
        self._settings = kit[StreamsSettings]
        self._request = request
        self._subscriptions: dict[str, Subscription] = {}
        self._renewals = 0
        connection.on_renewed = self._authorize_again
        connection.on_gone = self._gone

    async def run(self, channels: Sequence[str], since: Sequence[str]) -> None:
        """Serve the client until it goes; `channels` are subscribed to without being asked."""
        self.say(
            "hello",
            conn=self.connection.id,
            ping=_number(self._settings.ping),
            max=self._settings.max_message,
        )
        try:
            for number, name in enumerate(channels):
                message = {"t": "sub", "ch": name}
                if number < len(since):
                    message["since"] = since[number]
                await self._handle(message)
            async for message in self.connection:
                await self._handle(message)
                # Who does not take answers is not asked for more.
                await self.connection.drained()
        finally:
            for name in list(self._subscriptions):
                await self._end(name)

    def say(self, t: str, **fields: Any) -> None:
        """Send what is not dropped: an answer, or what changes for the client."""
        self.connection.push(Message(to_json({"t": t, **fields}).encode()), anyhow=True)

    def answer(self, id: Any, t: str, **fields: Any) -> None:
        """Say it with the id of what it answers, if that had one."""
        self.say(t, **({} if id is None else {"id": id}), **fields)

    async def _handle(self, message: dict[str, Any]) -> None:
        id = message.get("id")
        if not (type(id) is int or (_is_text(id) and len(id) <= MAX_ID)):
            message["id"] = id = None
        t = message.get("t")
        does = self._does.get(t) if _is_text(t) else None
        try:
            if does is None:
                raise Invalid("There is no such message: see t.")
            await does(self, message)
        except Exception as error:
            self.refuse(id, message.get("ch"), error)

    def refuse(self, id: Any, name: Any, error: Exception) -> None:
        """Tell what has become of a message about a channel, or of a subscription."""
        code, detail, retry = _told(error)
        if code == "internal_error":
            log.error("a message failed", exc_info=error)
        about = {"ch": name} if _is_text(name) and len(name) <= MAX_CHANNEL else {}
        self.answer(id, "err", **about, code=code, detail=detail, retry=retry)

    def entered(self, subscription: Subscription) -> None:
        """Somebody is there from now on; who has asked is answered before that is told."""
        target = subscription.target
        if target.channel.presence and not subscription.present:
            subscription.present = True
            self._presence.enter(target.stream, str(self.connection.actor.user_id))

    async def _sub(self, message: dict[str, Any]) -> None:
        name = _channel(message)
        since = None if message.get("since") is None else Position.parse(message["since"])
        target = self._channels.target(name, self.connection.actor)
        more = name not in self._subscriptions
        if more and len(self._subscriptions) >= self._settings.subscriptions:
            raise Forbidden("This connection has too many subscriptions: open another.")
        try:
            await self._ask(target)
        except Error as error:
            if error.status < 500:
                await self._end(name)
            raise
        before = self._subscriptions.get(name)
        subscription = self._subscriptions[name] = Subscription(self, target, message.get("id"))
        self.connection.join(target.stream)
        if before is not None:
            # Nobody comes or goes by it.
            subscription.present, before.present = before.present, False
            await self._stop(before)
        # It may have been taken away meanwhile.
        if self._subscriptions.get(name) is subscription:
            subscription.reader = self._hub.join(
                target.stream, subscription, since, self.connection.frames
            )

    async def _ask(self, target: Target) -> None:
        """Authorize a subscription to come; without an await after it, it stands when this ends."""
        self.connection.asking = target.stream
        try:
            while True:
                # What is taken away while it is being looked at is looked at again.
                renewals = self._renewals
                await self._authorize(target)
                if renewals == self._renewals:
                    return
        finally:
            self.connection.asking = None

    async def _unsub(self, message: dict[str, Any]) -> None:
        name = _channel(message)
        await self._end(name)
        self.answer(message.get("id"), "ok", ch=name)

    async def _pub(self, message: dict[str, Any]) -> None:
        name, key = _channel(message), message.get("key")
        if key is not None and not (_is_text(key) and 1 <= len(key) <= MAX_KEY):
            raise Invalid(f"A key is text of 1 to {MAX_KEY} characters.")
        actor = self.connection.actor
        target = self._channels.target(name, actor)
        publish = target.channel.publish
        if publish is None:
            await self._authorize(target)
            raise Forbidden("Nothing is published to this channel by its readers.")
        async with self._database.write() as session:
            answer = await publish(session, actor, target.id, message.get("data"), key)
        self.answer(message.get("id"), "ok", ch=name, data=answer)

    async def _signal(self, message: dict[str, Any]) -> None:
        subscription = self._subscribed(message)
        if not subscription.target.channel.signals:
            raise Forbidden("There are no signals on this channel.")
        data = to_json(message.get("data"))
        if len(data.encode()) > MAX_SIGNAL:
            raise Invalid(f"The data of a signal has at most {MAX_SIGNAL} bytes.")
        if not self._manager.may_signal(self.connection.actor.user_id):
            raise TooManyRequests("Your connections send too many signals.")
        self._manager.broadcast(
            subscription.target.stream,
            {
                "t": "signal",
                "ch": subscription.target.name,
                "who": str(self.connection.actor.user_id),
                "data": message.get("data"),
            },
            but=self.connection,
        )
        # One at a time: others have their turn before the next one.
        await asyncio.sleep(0)

    async def _who(self, message: dict[str, Any]) -> None:
        subscription = self._subscribed(message)
        if not subscription.target.channel.presence:
            raise Forbidden("There is no presence on this channel.")
        who = self._presence.present(subscription.target.stream)
        self.answer(message.get("id"), "presence", ch=subscription.target.name, who=who)

    async def _auth(self, message: dict[str, Any]) -> None:
        """Show another token, before the one that is known expires."""
        token = message.get("token")
        if not _is_text(token) or not token.isascii() or not token.isprintable():
            raise Invalid("Send the token.")
        scope = {
            **self._request.scope,
            "headers": [(b"authorization", b"Bearer " + token.encode())],
        }
        scope.pop("ferrule.actor", None)
        scope["query_string"] = b""
        try:
            actor = await identify(HTTPConnection(scope))
        except Unauthenticated:
            actor = ANONYMOUS
        if actor.id != self.connection.actor.id or actor.id is None:
            self.connection.end(BAD_TOKEN, "The token is not valid.")
            return
        self.connection.actor = actor
        # Who it names may have been known from before; what ends its login from here on is told.
        await self._manager.look_again(self.connection)
        if self.connection.code is None:
            self.answer(message.get("id"), "ok")

    async def _ping(self, message: dict[str, Any]) -> None:
        self.answer(message.get("id"), "pong")

    async def _nothing(self, message: dict[str, Any]) -> None:
        """A sign of life."""

    async def _authorize(self, target: Target) -> None:
        async with self._database.read() as session:
            await self._channels.authorize(session, self.connection.actor, target)

    async def _authorize_again(self) -> None:
        """End the subscriptions that the actor may not have any more."""
        self._renewals += 1
        for name, subscription in list(self._subscriptions.items()):
            try:
                await self._authorize(subscription.target)
            except Error as error:
                if error.status >= 500:
                    raise
                if self._subscriptions.get(name) is subscription:
                    await self._end(name)
                    self.refuse(None, name, error)

    async def _end(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None:
            self.connection.leave(subscription.target.stream)
            await self._stop(subscription)

    async def _stop(self, subscription: Subscription) -> None:
        # Before the first await: whoever waits for this may lose patience.
        if subscription.present:
            subscription.present = False
            stream = subscription.target.stream
            self._presence.leave(stream, str(self.connection.actor.user_id))
        if subscription.begins:
            subscription.overtaken()
        if subscription.reader is not None:
            await subscription.reader.stop()

    def _subscribed(self, message: dict[str, Any]) -> Subscription:
        subscription = self._subscriptions.get(_channel(message))
        if subscription is None:
            raise Forbidden("Subscribe to the channel first.")
        return subscription

    def _gone(self, code: int, after_ms: int) -> None:
        self.say("gone", code=code, after_ms=after_ms)

    _does: ClassVar[Mapping[str, Callable[..., Awaitable[None]]]] = {
        "sub": _sub,
        "unsub": _unsub,
        "pub": _pub,
        "signal": _signal,
        "presence": _who,
        "auth": _auth,
        "ping": _ping,
        "pong": _nothing,
    }
    """What is done with a message, by its `t`."""


def _channel(message: dict[str, Any]) -> str:
    name = message.get("ch")
    if not _is_text(name) or not 1 <= len(name) <= MAX_CHANNEL:
        raise Invalid("Name the channel: see ch.")
    return name


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds.is_integer() else seconds


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _told(error: Exception) -> tuple[str, str, bool]:
    """What the client is told of an error: its code, its detail, whether to try again."""
    if isinstance(error, Error):
        first = error.errors[0]["detail"] if error.errors else error.detail
        retry = error.status in RETRY and not isinstance(error, OutcomeUnknown)
        return error.code, first, retry
    if isinstance(error, ValidationError):
        return "validation_error", "The data has invalid fields.", False
    return "internal_error", "Internal Server Error", False
