"""Logs: structlog and every logger of the standard library, rendered by one formatter on stderr.

Standard error, because the standard output of a command is its answer (`ferrule openapi > file`),
and because Python's stderr escapes what the terminal cannot show where stdout raises.
"""

import logging
import sys
import time
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
    stamp,
    timestamp,
    trim,
)

SILENCED = ("uvicorn.access", "granian.access", "gunicorn.access", "hypercorn.access")
"""Access logs of servers; the edge logs each request itself."""
QUIETED = {
    # Their debug lines hold headers, bodies and bound values, and httpx's info lines whole URLs.
    **dict.fromkeys(("aiosqlite", "asyncio", "hpack", "httpcore", "multipart"), logging.INFO),
    **dict.fromkeys(("python_multipart", "uvicorn.error", "websockets"), logging.INFO),
    "httpx": logging.WARNING,
}
RESET = ("uvicorn", "_granian", "gunicorn.error", "hypercorn.error")
"""Loggers to which servers give a level of their own."""

_requests = logging.getLogger("ferrule.request")


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
    now = time.time()
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
        "level": "error" if level == logging.ERROR else "info",
        "timestamp": timestamp(now),
    }
    if handler := _only_handler():
        # A record and its copies would take longer than all the rest.
        handler.write(event, level)
        return
    record = logging.LogRecord(_requests.name, level, "", 0, "request", (), None)
    record.__dict__.update(msg=event, _logger=_requests, _name=event["level"])
    _requests.handle(record)


class _Handler(logging.Handler):
    def __init__(self, level: int, renderers: list[Processor]) -> None:
        super().__init__(level)
        self.renderers = renderers
        self.formatter = ProcessorFormatter(
            processors=[expand, conceal, *renderers],
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), trim],
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._out(self.format(record))
        except Exception:
            self.handleError(record)

    def write(self, event: Any, level: int) -> None:
        """Log an event that holds no secrets and has its time, past the standard library."""
        if level < self.level:
            return
        try:
            for processor in self.renderers:
                event = processor(_requests, "", event)
            with cast(Any, self.lock):
                self._out(event)
        except Exception:
            self._failed(_requests.name)

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
                logger.removeHandler(other)
                logger.propagate = True
    root.addHandler(handler)
    root.setLevel(handler.level)
    for name in RESET:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, least in QUIETED.items():
        logging.getLogger(name).setLevel(max(least, handler.level))
    for name in SILENCED:
        logger = logging.getLogger(name)
        # uvicorn does not even compose the line for a logger without handlers.
        logger.handlers.clear()
        logger.propagate, logger.disabled = False, True


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
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
