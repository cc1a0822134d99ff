"""The streams' own module: the log's tables, the routes, and what is live in this process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from ferrule.actor import Doors
from ferrule.db.database import Database
from ferrule.kit import Kit
from ferrule.module import Module
from ferrule.observability.health import Health
from ferrule.observability.metrics import Metrics
from ferrule.streams.api import router
from ferrule.streams.bus import open_bus
from ferrule.streams.channels import Channels
from ferrule.streams.connections import ConnectionManager
from ferrule.streams.control import Control, control
from ferrule.streams.hub import Hub
from ferrule.streams.log import Announcer
from ferrule.streams.metrics import StreamMetrics
from ferrule.streams.models import Stream, StreamEvent, Ticket
from ferrule.streams.node import Node
from ferrule.streams.presence import Presence
from ferrule.streams.retention import Retention
from ferrule.streams.settings import StreamsSettings
from ferrule.streams.tickets import ticket_door


@asynccontextmanager
async def lifespan(kit: Kit) -> AsyncGenerator[None]:
    """What is live in this process: the bus, the rooms of streams, the connections."""
    # Settings import the modules' groups, of which this is one's home.
    from ferrule.settings import Settings

    database, channels = kit[Database], kit[Channels]
    node = Node(open_bus(kit[Settings], database))
    retention = Retention(database, channels)
    hub = Hub(database, channels, node, noted=retention.noted)
    manager = ConnectionManager(kit, node, kit[Doors], kit[StreamsSettings])
    presence = Presence(node)
    presence.on_change(manager.present_changed)
    for thing in (node, hub, manager, presence, retention):
        kit.provide(thing)
    kit.provide(hub, kind=cast(Any, Announcer))
    kit[Health].add("bus", node.check)
    StreamMetrics(kit[Metrics].registry, manager, node)
    async with node.running(), hub.running(), manager.running():
        hub.spawn(retention.run(), "retention")
        await Control(hub, manager).start()
        yield


engine = Module(
    name="streams",
    router=router,
    models=(Stream, StreamEvent, Ticket),
    channels=(control,),
    doors=(ticket_door,),
    lifespan=lifespan,
)
