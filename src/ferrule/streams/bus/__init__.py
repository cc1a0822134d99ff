"""The bus carries hints between the processes of one application; whatever it loses, the log has.

There is one in memory, for an application that is one process, one over Redis Streams and one over
PostgreSQL's NOTIFY. `open_bus` chooses.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ferrule.db.database import Database
    from ferrule.settings import Settings


class Bus(Protocol):
    """Carries hints between the processes of one application. Whatever it loses, the log has.

    `kind` is `memory`, `redis`, `postgresql`, or `none` where there is no way between processes.
    """

    kind: str

    def publish(self, message: bytes) -> None:
        """Send UTF-8 text without NUL, up to 128 KiB, to every node, this one included.

        It arrives soon, in the order of this publisher. Never blocks and never raises: while the
        broker is away a bounded number of messages and bytes is kept, and the oldest is dropped;
        what cannot be carried is logged and dropped. Call it on the event loop.
        """
        ...

    def running(self, receive: Callable[[bytes], None]) -> AbstractAsyncContextManager[None]:
        """Call `receive` on the event loop once for each message that is published from now on.

        It begins when the broker answers, or has failed to; what waits at the end is sent, if the
        broker takes it within half a second. `receive` must not raise.
        """
        ...


def open_bus(settings: "Settings", database: "Database") -> Bus:
    """Redis where its URL is set, else PostgreSQL where that is the database, else memory.

    A pooler in transaction mode keeps notifications of PostgreSQL from whoever listens. Behind one
    there is no bus without Redis: it is of the kind `none`, hears nothing, and says so.
    """
    if settings.redis_url is not None:
        from ferrule.streams.bus.redis import RedisBus

        return RedisBus(settings.redis_url.get_secret_value(), settings.streams.namespace)
    if database.embedded:
        from ferrule.streams.bus.memory import MemoryBus

        return MemoryBus()
    if database.settings.pooler:
        from ferrule.streams.bus.none import NoBus

        return NoBus()
    from ferrule.streams.bus.postgresql import PostgreSQLBus

    return PostgreSQLBus(database, settings.streams.namespace)
