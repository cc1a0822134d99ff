"""HTTP under `ferrule serve`: uvicorn's protocol, which waits for nobody who takes nothing.

A request has its transport, for event streams.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ferrule.streams.wire import ABORT, TRANSPORT, untaken

STALLED = 60.0
"""Seconds after which a peer that takes nothing is aborted: as nginx has it (`send_timeout`).
Players and downloads pause for some time."""


class HttpProtocol(HttpToolsProtocol):
    """HTTP of uvicorn; the scope has the transport under `extensions`.

    What ends a connection reaches the request that is under way on it, also if another one waits
    behind that. A peer that takes nothing of what is written is aborted: a transport that is to be
    closed waits for it for ever, and so does a request. Whoever says that they are done, or is in
    the way of the stop of the server, gets less time.
    """

    _running: RequestResponseCycle | None = None
    _looking: asyncio.TimerHandle | None = None
    _resumed = 0
    _hurries = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(Any, self.scope)["extensions"] = {TRANSPORT: self.transport}

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            # uvicorn tells the last request that came.
            running.disconnected = True
            running.message_event.set()
        if self._looking is not None:
            self._looking.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_after()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._resumed += 1

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._look_after()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._look_after()

    def eof_received(self) -> None:
        # The transport closes once the peer has taken everything.
        super().eof_received()
        self._hurries = True
        self._look_after()

    def shutdown(self) -> None:
        super().shutdown()
        self._hurries = True
        self._look_after()

    def _look_after(self) -> None:
        """Look in some seconds whether the peer has taken anything of what waits for it."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self.transport.get_write_buffer_size():
            seconds, before = ABORT if self._hurries else STALLED, untaken(self.transport)
            self._looking = self.loop.call_later(seconds, self._look, before, self._resumed)

    def _look(self, before: int, resumed: int) -> None:
        if untaken(self.transport) < before or self._resumed > resumed:
            self._look_after()
        else:
            self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        before = cast("RequestResponseCycle | None", self.cycle)
        if (before and not before.response_complete) or self.flow.write_paused:
            # What is under way would never learn that the peer left, nor frames that it is full.
            self.transport.abort()
        else:
            super().handle_websocket_upgrade()
