"""The control stream: what every node must know within a second, whatever the bus does.

It is a stream as all others are, written in the transaction that takes something away, and watched
by each node: the bus makes that quick, looking into the database makes it certain.
"""

import asyncio
import json
from uuid import UUID

from ferrule.db.session import WriteSession
from ferrule.streams.channels import CONTROL, KICK, Channel, Channels
from ferrule.streams.connections import ConnectionManager
from ferrule.streams.events import Event
from ferrule.streams.hub import Hub
from ferrule.streams.room import AGAIN

KIND = "control"
RECHECK = "recheck"

control = Channel(kind=KIND, keep_days=1, keep_events=10_000)
"""Nobody may subscribe to it: it has neither readers of its own nor authorization."""


def recheck(session: WriteSession, user_id: UUID) -> None:
    """Have every node look again, once this is committed, at what a user may.

    Live connections whose login has ended are closed, subscriptions that are not authorized any
    more end. Call it wherever somebody loses something: a login, a role, a membership.
    """
    if KIND in session.kit[Channels]:
        session.emit(CONTROL, RECHECK, {"user": str(user_id)})


def recheck_channel(session: WriteSession, stream: str) -> None:
    """The same for everybody who reads a stream: it is not for all of them any more.

    Call it where nobody knows who they are, as when a public room becomes a private one.
    """
    if KIND in session.kit[Channels]:
        session.emit(CONTROL, RECHECK, {"stream": stream})


class Control:
    """Reads the control stream for a node, from its start on."""

    def __init__(self, hub: Hub, manager: ConnectionManager) -> None:
        self._hub = hub
        self._manager = manager
        self._live = asyncio.Event()

    async def start(self) -> None:
        """Return once nothing is missed any more."""
        self._hub.watch(CONTROL)
        await self._join()

    def deliver(self, event: Event, epoch: str) -> bool:
        told = json.loads(event.message.text)
        data = told["data"]
        if told["type"] == KICK:
            self._manager.kicked(UUID(data["user"]))
        elif "user" in data:
            self._manager.recheck(UUID(data["user"]))
        elif "stream" in data:
            self._manager.recheck_readers(data["stream"])
        return True

    def begun(self, epoch: str | None, top: int) -> None:
        """Who connects from now on is known to the database as they are."""

    def live(self, epoch: str | None, offset: int) -> None:
        self._live.set()

    def reset(self, epoch: str | None, offset: int) -> None:
        self._manager.recheck()

    async def drained(self) -> None:
        """There is always room."""

    def broken(self) -> None:
        self._hub.spawn(self._again(), "control")

    async def _again(self) -> None:
        await self._reader.stop()
        await asyncio.sleep(AGAIN)
        await self._join()
        # What was told between is known to nobody.
        self._manager.recheck()

    async def _join(self) -> None:
        self._live.clear()
        self._reader = self._hub.join(CONTROL, self, None)
        await self._live.wait()
