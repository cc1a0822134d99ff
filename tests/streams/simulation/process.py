"""A server: its hub is a real one, its node is not."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ferrule.streams import Channel
from ferrule.streams.channels import Channels
from ferrule.streams.hub import Hub
from ferrule.streams.node import CANARY, DEAF
from tests.streams.simulation.database import Database

if TYPE_CHECKING:
    from tests.streams.simulation.world import World

CHANNELS = Channels([Channel(kind="rooms", authorize=cast(Any, lambda: None))])


class Process:
    """A server: its hub, and its end of the bus."""

    def __init__(self, world: "World") -> None:
        self.alive = True
        self._world = world
        self.known_at = world.loop.time() + world.rng.random() * CANARY
        """When the others know of it."""
        self._deaf_since: float | None = None
        self._handle: Any = None
        self._heard: list[Callable[[], None]] = []
        database = Database(world.log, world.read_way)
        noted: list[Any] = []
        self.hub = Hub(cast(Any, database), CHANNELS, cast(Any, self), noted=noted.append)
        self._over = asyncio.Event()
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.hub.running():
            await self._over.wait()

    async def kill(self) -> None:
        self.alive = False
        self._over.set()
        await self._running

    # What a hub asks of its node.

    @property
    def deaf(self) -> bool:
        since = self._deaf_since
        return since is not None and self._world.loop.time() - since > DEAF

    @property
    def heard(self) -> bool:
        now, all_ = self._world.loop.time(), self._world.processes
        return self.deaf or any(p.alive and p.known_at <= now for p in all_ if p is not self)

    def on(self, kind: str, handle: Any) -> None:
        self._handle = handle

    def on_heard(self, call: Callable[[], None]) -> None:
        self._heard.append(call)

    def tell(self, kind: str, body: bytes) -> None:
        if not self.silent:
            self._world.carry(self, body)

    # What the world does to it.

    @property
    def silent(self) -> bool:
        return self._deaf_since is not None

    def deafen(self) -> None:
        self._deaf_since = self._world.loop.time()

    def mend(self) -> None:
        deaf, self._deaf_since = self.deaf, None
        for call in self._heard if deaf else ():
            call()

    def receive(self, body: bytes) -> None:
        if self.alive and not self.silent:
            self._handle("another", body)
