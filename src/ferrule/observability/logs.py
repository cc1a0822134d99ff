"""Logs: structlog and every logger of the standard library, rendered by one formatter on stderr.

Standard error, because the standard output of a command is its answer (`ferrule openapi > file`),
and because Python's stderr escapes what the terminal cannot show where stdout raises.
"""

import asyncio
import logging
import sys
import time
from collections import deque
from functools import lru_cache
from typing import Any, Literal, cast

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from ferrule.observability.masking import mask_text
from ferrule.observability.rendering import (
    as_json,
    as_text,
    conceal,
    expand,
    identify,
    stamp,
    timestamp,
    trim,
)

SILENCED = ("uvicorn.access", "granian.access", "gunicorn.access", "hypercorn.access")
"""Access logs of servers; the edge logs each request itself."""
ADDRESSED = '"WebSocket %s"'
"""What uvicorn's lines have in them that hold the address of a WebSocket, with its query: a ticket
may stand there."""
OF_SOCKETS = frozenset(
    {
        *("connection open", "connection closed", "connection rejected (%d %s)"),
        "ASGI callable returned without completing handshake.",
    }
)
"""Its other lines about each WebSocket, which the edge logs itself; the last one is not true: it is
logged after each handshake that was answered with an error."""
QUIETED = {
    # Their debug lines hold headers, bodies and bound values, and httpx's info lines whole URLs.
    **dict.fromkeys(("aiosqlite", "asyncio", "hpack", "httpcore", "multipart"), logging.INFO),
    **dict.fromkeys(("python_multipart", "uvicorn.error", "websockets"), logging.INFO),
    "httpx": logging.WARNING,
    # What alembic is made of, at each upgrade.
    "alembic.runtime.plugins": logging.WARNING,
}
RESET = ("uvicorn", "_granian", "gunicorn.error", "hypercorn.error")
"""Loggers to which servers give a level of their own."""

SOON = 0.05
"""Seconds that the line of a request may wait for others; a line of any other kind does not."""
MAX_LINES = 200
MAX_KNOWN = 200
"""Characters of a text whose form in JSON is kept."""

_requests = logging.getLogger("ferrule.request")
_sockets: structlog.stdlib.BoundLogger = structlog.get_logger("ferrule.request")


def configure(level: str, format: Literal["text", "json"] | None = None) -> None:
    """Log lines of at least `level`; `format` None is text in a terminal and JSON elsewhere.

    It may be called again: the last call counts. Handlers of others stay (files, pytest's), save
    those that write to the standard streams too.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    terminal = _is_terminal(sys.stderr)
    text = format == "text" or (format is None and terminal)
    _take_over(_Handler(threshold, as_text(colors=terminal) if text else [as_json]))
    structlog.configure(
        processors=_CHAIN,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def log_request(
    *,
    request_id: str,
    method: str,
    route: str | None,
    status: int,
    duration_ms: float,
    actor: str,
    client: str | None,
) -> None:
    """The one line of a request. `route` is the template, because a path can hold a secret."""
    level = logging.ERROR if status >= 500 else logging.INFO
    if not _requests.isEnabledFor(level):
        return
    handler = _only_handler()
    if handler is not None and level < handler.level:
        return
    named = "error" if level == logging.ERROR else "info"
    if handler is not None and handler.renderers == [as_json]:
        # A record and its copies would take longer than all the rest, and a dict as long as it.
        handler.write(
            f'{{"event":"request","request_id":{_id(request_id)},"method":{_quoted(method)},'
            f'"route":{_quoted(route)},"status":{status},"duration_ms":{round(duration_ms, 3)},'
            f'"actor":{_quoted(actor)},"client":{_quoted(client)},"logger":"{_requests.name}",'
            f'"level":"{named}","timestamp":"{timestamp(time.time())}"}}'
        )
        return
    event: dict[str, Any] = {
        "event": "request",
        "request_id": mask_text(request_id),
        "method": mask_text(method),
        "route": route,
        "status": status,
        "duration_ms": round(duration_ms, 3),
        "actor": actor,
        "client": client and mask_text(client),
        "logger": _requests.name,
        "level": named,
        "timestamp": timestamp(time.time()),
    }
    record = logging.LogRecord(_requests.name, level, "", 0, "request", (), None)
    record.__dict__.update(msg=event, _logger=_requests, _name=event["level"])
    _requests.handle(record)


def log_socket(
    *,
    request_id: str,
    route: str,
    status: int,
    code: int | None,
    seconds: float,
    actor: str,
    client: str | None,
    failed: bool,
) -> None:
    """The one line of a WebSocket, once it has ended or was refused.

    `status` is what the handshake was answered with, 101 where it was open; `code` how it was
    closed, None where nobody said; `failed` whether by a defect of ours.
    """
    _sockets.log(
        logging.ERROR if failed else logging.INFO,
        "websocket",
        request_id=request_id,
        route=route,
        status=status,
        code=code,
        seconds=round(seconds, 3),
        actor=actor,
        client=client,
    )


def _id(text: str) -> str:
    """The id of a request as JSON, without secrets: so much text without a sign is none."""
    if len(text) == 32 and text.isalnum() and text.isascii():
        return f'"{text}"'
    return _rendered(text)


def _quoted(text: str | None) -> str:
    """What comes again from request to request as JSON, without secrets."""
    # Nobody is to fill the memory with long names of methods.
    return _known(text) if text is None or len(text) <= MAX_KNOWN else _rendered(text)


def _rendered(text: str | None) -> str:
    return as_json(None, "", {"": text and mask_text(text)})[4:-1]


_known = lru_cache(maxsize=4096)(_rendered)


class _Handler(logging.Handler):
    def __init__(self, level: int, renderers: list[Processor]) -> None:
        super().__init__(level)
        self.renderers = renderers
        self._lines: deque[str] = deque()
        self._flushing: asyncio.AbstractEventLoop | None = None
        self.formatter = ProcessorFormatter(
            processors=[expand, conceal, *renderers],
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), trim],
        )

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines:
            self.flush()
        try:
            self._out(self.format(record))
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Log the line of a request, past the standard library: soon, and together with others."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if len(self._lines) >= MAX_LINES:
            self.flush()
        elif self._flushing is not loop:
            self._flushing = loop
            loop.call_later(SOON, self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        self._flushing = None
        lines: list[str] = []
        # One by one, because another thread may add to them meanwhile.
        while self._lines:
            lines.append(self._lines.popleft())
        try:
            if lines:
                with cast(Any, self.lock):
                    self._out("\n".join(lines))
        except Exception:
            self._failed(_requests.name)

    def close(self) -> None:
        self.flush()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        # The inherited one prints the arguments of the line, with whatever secrets are in them.
        self._failed(record.name)

    def _out(self, line: str) -> None:
        # Looked up each time, because pytest and servers put another stream in its place.
        stream = sys.stderr
        stream.write(line + "\n")
        stream.flush()

    def _failed(self, name: str) -> None:
        try:
            self._out(f"A line of {name!r} could not be logged: {type(sys.exception()).__name__}")
        except Exception:
            return


def _only_handler() -> _Handler | None:
    """Our handler, if nobody else would see or stop a record of a request."""
    found: _Handler | None = None
    logger: logging.Logger | None = _requests
    while logger is not None:
        if logger.filters:
            return None
        for handler in logger.handlers:
            if found is not None or not isinstance(handler, _Handler) or handler.filters:
                return None
            found = handler
        logger = logger.parent if logger.propagate else None
    return found


def _take_over(handler: _Handler) -> None:
    root = logging.getLogger()
    streams = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    for logger in [root, *root.manager.loggerDict.values()]:
        # Between the loggers stand placeholders, which have no handlers.
        if not isinstance(logger, logging.Logger):
            continue
        for other in list(logger.handlers):
            if isinstance(other, _Handler) or getattr(other, "stream", None) in streams:
                other.flush()
                logger.removeHandler(other)
                logger.propagate = True
    root.addHandler(handler)
    root.setLevel(handler.level)
    for name in RESET:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, least in QUIETED.items():
        logging.getLogger(name).setLevel(max(least, handler.level))
    logging.getLogger("uvicorn.error").addFilter(_is_of_no_socket)
    for name in SILENCED:
        logger = logging.getLogger(name)
        # uvicorn does not even compose the line for a logger without handlers.
        logger.handlers.clear()
        logger.propagate, logger.disabled = False, True


def _is_of_no_socket(record: logging.LogRecord) -> bool:
    text = str(record.msg)
    return ADDRESSED not in text and text not in OF_SOCKETS


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    identify,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    stamp,
]
_CHAIN: list[Processor] = [
    structlog.stdlib.filter_by_level,
    *_SHARED,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    ProcessorFormatter.wrap_for_formatter,
]
