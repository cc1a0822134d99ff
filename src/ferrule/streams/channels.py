"""Channels: the kinds of streams that modules declare, and who may read them."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ferrule.actor import Actor
from ferrule.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from ferrule.db.session import ReadSession, WriteSession

CONTROL = "control/users"
"""The stream by which nodes know whose rights have changed: see `ferrule.streams.control`."""
KICK = "kick"

Authorize = Callable[["ReadSession", Actor, UUID], Awaitable[None]]
Publish = Callable[["WriteSession", Actor, UUID, Any, str | None], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A kind of streams, which a module declares: `Module(channels=(Channel(kind="rooms", …),))`.

    - `kind`: what stands before the slash in the names of its streams, `rooms/<id>`
    - `authorize`: lets an actor read the stream of this id, or raises `NotFound`; it is asked at
      each subscription, and again when something changed for the actor (`recheck`)
    - `personal`: instead, each user has one stream, `<kind>/<user id>`, and calls it `<kind>`
    - `publish`: takes what a client publishes: a service function, with a write session, the actor,
      the id, the data and the client's key, by which it is idempotent; what it returns is answered
    - `signals`: whether readers may send signals to each other, which are not stored
    - `presence`: whether readers see who else is there
    - `keep_days`, `keep_events`: older events are trimmed, and events beyond that number
    """

    kind: str
    authorize: Authorize | None = None
    personal: bool = False
    publish: Publish | None = None
    signals: bool = False
    presence: bool = False
    keep_days: float = 30.0
    keep_events: int = 100_000

    def __post_init__(self) -> None:
        if not self.kind or "/" in self.kind or not self.kind.isprintable() or len(self.kind) > 50:
            raise ConfigurationError(f"{self.kind!r} is no name for a channel: use a plain word.")
        if self.personal and (self.authorize or self.publish or self.signals or self.presence):
            raise ConfigurationError(
                f"The channel {self.kind!r} is personal: its user is its only reader, and nobody "
                f"publishes to it."
            )


@dataclass(frozen=True, slots=True)
class Target:
    """A channel that somebody asked for: its kind, its name, its stream, and the id in it."""

    channel: Channel
    name: str
    stream: str
    id: UUID


class Channels:
    """The kinds that an application has."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._kinds: dict[str, Channel] = {}
        for channel in channels:
            if channel.kind in self._kinds:
                raise ConfigurationError(
                    f"The channel {channel.kind!r} is declared twice: rename one."
                )
            self._kinds[channel.kind] = channel

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._kinds.values())

    def __contains__(self, kind: str) -> bool:
        return kind in self._kinds

    def of(self, stream: str) -> Channel:
        """The kind of a stream; `ConfigurationError` for one that no module declares."""
        kind = stream.partition("/")[0]
        try:
            return self._kinds[kind]
        except KeyError:
            raise ConfigurationError(
                f"No module declares the channel {kind!r}: add it with "
                f"Module(channels=(Channel(kind={kind!r}, …),))."
            ) from None

    def name(self, stream: str) -> str:
        """What its readers call a stream."""
        channel = self.of(stream)
        return channel.kind if channel.personal else stream

    def target(self, name: str, actor: Actor) -> Target:
        """What an actor means by a channel's name; `NotFound` for what cannot be one."""
        kind, slash, rest = name.partition("/")
        channel = self._kinds.get(kind)
        if channel is not None and channel.personal and not slash:
            return Target(channel, kind, f"{kind}/{actor.user_id}", actor.user_id)
        id = _uuid(rest)
        if channel is None or channel.authorize is None or id is None:
            raise no_channel()
        return Target(channel, name, name, id)

    async def authorize(self, session: "ReadSession", actor: Actor, target: Target) -> None:
        """Raise `NotFound` or `Forbidden` if the actor may not read it."""
        if target.channel.authorize is not None:
            await target.channel.authorize(session, actor, target.id)


def no_channel() -> NotFound:
    return NotFound("There is no such channel.")


def _uuid(text: str) -> UUID | None:
    """The id in its one spelling: a channel has no second name."""
    try:
        id = UUID(text)
    except ValueError:
        return None
    return id if str(id) == text else None
