"""The contenders that hold live connections, each a server with a kind of event that it sends."""

from dataclasses import dataclass

SIGNAL, DURABLE = "signal", "durable event"
READERS = 1000
FRAME = 218
"""Bytes of an event on the wire, where a server's own words leave room for it."""


@dataclass(frozen=True)
class LiveContender:
    """A server: how Python runs it, how it is spoken to, and what it does for each event.

    `store` is the database that it needs and `bus` what carries events between its processes,
    where it has any. `ahead` is how many events are asked for before the first has come, so that
    the server need not wait for its store.
    """

    key: str
    name: str
    command: str
    dialect: str = "plain"
    event: str = SIGNAL
    store: str = ""
    bus: str = ""
    ahead: int = 1


_UVICORN = "-m uvicorn benchmarks.live.contenders.{} --port {{port}} --no-access-log"
_FERRULE = "-c 'from ferrule.cli import main; main()' serve --port {port}"

BARE = LiveContender("bare", "one write(2) each", "-m benchmarks.live.contenders.bare {port}")
RAW = LiveContender("raw", "raw asyncio + uvloop", "-m benchmarks.live.contenders.raw {port}")
BROADCAST = LiveContender(
    "websockets", "websockets.broadcast", "-m benchmarks.live.contenders.broadcast {port}"
)
STARLETTE = LiveContender("starlette", "Starlette loop", _UVICORN.format("starlette_loop:app"))
SOCKET_IO = LiveContender(
    "socketio", "python-socketio", _UVICORN.format("socketio_room:app"), dialect="socketio"
)
CHANNELS = LiveContender(
    "channels", "Channels + Redis", _UVICORN.format("channels_group:app"), bus="redis"
)


def _ferrule(
    key: str, name: str, event: str, store: str, bus: str = "", ahead: int = 1
) -> LiveContender:
    return LiveContender(
        f"live-{key}", f"Ferrule, {name}", _FERRULE, "ferrule", event, store, bus, ahead
    )


FERRULE = _ferrule("signal", "signal", SIGNAL, "sqlite")
FERRULE_POSTGRESQL = _ferrule("signal-postgresql", "signal on PostgreSQL", SIGNAL, "postgresql")
FERRULE_REDIS = _ferrule("signal-redis", "signal with Redis", SIGNAL, "postgresql", "redis")
DURABLE_SQLITE = _ferrule("durable-sqlite", "durable on SQLite", DURABLE, "sqlite", ahead=8)
DURABLE_POSTGRESQL = _ferrule(
    "durable-postgresql", "durable on PostgreSQL", DURABLE, "postgresql", ahead=8
)
DURABLE_REDIS = _ferrule(
    "durable-redis", "durable with Redis", DURABLE, "postgresql", "redis", ahead=8
)
LIVE_CONTENDERS = (
    BARE, RAW, BROADCAST, STARLETTE, SOCKET_IO, CHANNELS,
    FERRULE, FERRULE_POSTGRESQL, FERRULE_REDIS,
    DURABLE_SQLITE, DURABLE_POSTGRESQL, DURABLE_REDIS,
)  # fmt: skip
IDLE_CONTENDERS = (RAW, STARLETTE, SOCKET_IO, FERRULE_POSTGRESQL)
