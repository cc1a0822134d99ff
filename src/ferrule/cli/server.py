"""uvicorn's server as `ferrule serve` runs it: told to stop, it first lets go of what is coming.

Not ready any more → the listener closed → a while for what was connected just before → live
connections sent away while requests under way are finished → the application's own end.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import structlog
from uvicorn import Server as UvicornServer
from uvicorn.supervisors import Multiprocess, multiprocess
from uvicorn.supervisors.multiprocess import Process

from ferrule.observability.health import Health

if TYPE_CHECKING:
    from ferrule.app import Ferrule

SETTLE = 0.5
"""Seconds in which connections that were accepted last bring their request, and are answered."""
LOOK = 0.05
START = 60.0
"""Seconds that a worker has to start before it replaces another."""
CANCELLED = 1.0
"""Seconds that requests get to end once they are cancelled."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("ferrule.server")


class Server(UvicornServer):
    """Serves a Ferrule application, and drains it at the end."""

    interrupted = False
    """Whether somebody sits in front of it, who pressed Ctrl-C."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping")
        app: Ferrule = self.config.load_app()
        if Health in app.kit:
            app.kit[Health].draining = True
        await self._close(sockets or [])
        # While code is being changed, nobody is to wait.
        if not self.config.should_reload:
            await self._settle()
        await self._finish(app)
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _close(self, listeners: list[socket.socket]) -> None:
        """Listen no more, and take in whoever has connected by then."""
        # What waits in the queue of a socket that nobody else has is reset when it is closed.
        waiting = [connection for each in listeners for connection in _queued(each)]
        for listener in (*self.servers, *listeners):
            listener.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            # A client may be gone again.
            with suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        return cast(Any, self.config.http_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _settle(self) -> None:
        # Whoever gets an answer from now on is told not to send more by this connection.
        self.server_state.default_headers = [
            *self.server_state.default_headers,
            (b"connection", b"close"),
        ]
        for _ in range(round(SETTLE / LOOK)):
            if not self.force_exit:
                await asyncio.sleep(LOOK)

    async def _finish(self, app: "Ferrule") -> None:
        """Let requests and live connections end, within the grace."""
        grace = self.config.timeout_graceful_shutdown
        deadline = _now() + (float("inf") if grace is None else grace)
        draining = asyncio.create_task(self._drain(app))
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self._busy(draining) and not self.force_exit:
            if _now() > deadline:
                await self._cut_off()
                break
            await asyncio.sleep(LOOK)
        draining.cancel()
        await asyncio.wait([draining], timeout=CANCELLED)

    def _busy(self, draining: asyncio.Task[None]) -> bool:
        state = self.server_state
        return bool(state.connections or state.tasks or not draining.done())

    async def _drain(self, app: "Ferrule") -> None:
        if self.config.should_reload:
            return
        try:
            await app.drain(0 if self.interrupted else None)
        except Exception as error:
            log.error("draining failed", exc_info=error)

    async def _cut_off(self) -> None:
        """Cancel what did not end, and give it the time to let go of what it holds."""
        tasks = list(self.server_state.tasks)
        log.warning(
            "grace exceeded", requests=len(tasks), connections=len(self.server_state.connections)
        )
        for task in tasks:
            task.cancel("the server stops, and the grace is over")
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED)


class Worker(Process):
    """A process that runs our server."""

    @property
    def server(self) -> UvicornServer:
        if self._server is None:
            self._server = Server(self.config)
        return self._server

    def wait_until_ready(self, timeout: float, should_exit: threading.Event | None = None) -> bool:
        # Else a new one that is slow to start is given up after the time for a sign of life.
        return super().wait_until_ready(max(timeout, START), should_exit)


class Workers(Multiprocess):
    """Keeps processes with our server running."""

    def run(self) -> None:
        with _workers():
            super().run()


@contextmanager
def _workers() -> Generator[None]:
    # uvicorn names the class in four places, of which none can be told another.
    module = cast(Any, multiprocess)
    module.Process = Worker
    try:
        yield
    finally:
        module.Process = Process


def _queued(listener: socket.socket) -> Generator[socket.socket]:
    listener.setblocking(False)
    with suppress(OSError):
        while True:
            yield listener.accept()[0]


def _now() -> float:
    return asyncio.get_running_loop().time()
