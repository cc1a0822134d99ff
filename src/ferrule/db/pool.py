"""Connections, handed on in the order of asking, with a deadline."""

import logging
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.queue import Empty

from ferrule.db.turns import Turns

# A pool logs under the name of its class, which SQLAlchemy's own level does not reach.
logging.getLogger(f"{__name__}.FairPool").setLevel(logging.WARNING)


class FairPool(AsyncAdaptedQueuePool):
    """A pool of SQLAlchemy's in which a newcomer does not overtake those who wait.

    `lease` and `give_back` hand out the same connections past SQLAlchemy's checkout and reset,
    which would cost more than the statement. Who leases leaves no transaction open.
    """

    def __init__(self, *args: Any, pool_size: int, timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, pool_size=pool_size, timeout=timeout, **kwargs)
        self.turns = Turns(pool_size, timeout)

    async def lease(self) -> Any:
        """An entry of the pool whose `driver_connection` is live and outside of a transaction."""
        await self.turns.take()
        try:
            entry: Any = self._pool.get_nowait()
        except Empty:
            entry = None
        if entry is not None and not entry._is_hard_or_soft_invalidated():
            if not entry.driver_connection.is_closed():
                return entry
            # It ended while nobody used it.
            entry.invalidate()
        try:
            return await greenlet_spawn(self._connected, entry)
        except BaseException:
            self.turns.give()
            raise

    def give_back(self, entry: Any) -> None:
        """Return what was leased; one that is broken was invalidated before."""
        self._do_return_conn(entry)

    def _connected(self, entry: Any) -> Any:
        if entry is None:
            entry = super()._do_get()
        try:
            entry.get_connection()
        except BaseException:
            super()._do_return_conn(entry)
            raise
        return entry

    def _do_get(self) -> ConnectionPoolEntry:
        await_only(self.turns.take())
        try:
            return super()._do_get()
        except BaseException:
            self.turns.give()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self.turns.give()
