"""Logs: structlog and every logger of the standard library, rendered by one formatter on stderr.

Standard error, because the standard output of a command is its answer (`ferrule openapi > file`),
and because Python's stderr escapes what the terminal cannot show where stdout raises.
"""

import json
import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from ferrule.observability.masking import mask, mask_text

MAX_EXCEPTION = 32_768
"""Characters of one logged exception."""
SILENCED = ("uvicorn.access", "granian.access", "gunicorn.access", "hypercorn.access")
"""Access logs of servers; the edge logs each request itself."""
QUIETED = {
    # Their debug lines hold headers, bodies and bound values, and httpx's info lines whole URLs.
    **dict.fromkeys(("aiosqlite", "asyncio", "hpack", "httpcore", "multipart"), logging.INFO),
    **dict.fromkeys(("python_multipart", "uvicorn.error", "websockets"), logging.INFO),
    "httpx": logging.WARNING,
}

Event = MutableMapping[str, Any]

# What ends a line, moves the cursor, reorders text or cannot be encoded.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BLOCKS = ("exception", "stack")
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_requests = logging.getLogger("ferrule.request")


def configure(level: str, format: Literal["text", "json"] | None = None) -> None:
    """Log lines of at least `level`; `format` None is text in a terminal and JSON elsewhere.

    It may be called again: the last call counts. Handlers of others stay (files, pytest's), save
    those that write to the standard streams too.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    text = format == "text" or (format is None and terminal)
    renderers = _text(colors=terminal) if text else [_json]
    handler = _Handler(threshold)
    handler.setFormatter(
        ProcessorFormatter(
            processors=[_exceptions, _masked, *renderers],
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), _plain],
        )
    )
    _take_over(handler, threshold)
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
    # Made by hand: structlog's way to the same record takes twice the time.
    record = logging.LogRecord(_requests.name, level, "", 0, "request", (), None)
    event = {
        "event": "request",
        "request_id": request_id,
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(duration_ms, 3),
        "actor": actor,
        "client": client,
        "logger": _requests.name,
        "level": "error" if status >= 500 else "info",
        "timestamp": _timestamp(record.created),
    }
    record.__dict__.update(msg=event, _logger=_requests, _name=event["level"])
    _requests.handle(record)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Looked up each time, because pytest and servers put another stream in its place.
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        # The inherited one prints the line's arguments, with whatever secrets are in them.
        try:
            kind = type(sys.exception()).__name__
            sys.stderr.write(f"A line of {record.name!r} could not be logged: {kind}\n")
        except Exception:
            return


def _take_over(handler: logging.Handler, threshold: int) -> None:
    root = logging.getLogger()
    streams = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    named = [root.manager.loggerDict[name] for name in list(root.manager.loggerDict)]
    for logger in [root, *(logger for logger in named if isinstance(logger, logging.Logger))]:
        for other in list(logger.handlers):
            if isinstance(other, _Handler) or getattr(other, "stream", None) in streams:
                logger.removeHandler(other)
                logger.propagate = True
    root.addHandler(handler)
    root.setLevel(threshold)
    for name in ("uvicorn", "_granian"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, least in QUIETED.items():
        logging.getLogger(name).setLevel(max(least, threshold))
    for name in SILENCED:
        logger = logging.getLogger(name)
        # uvicorn does not even compose the line for a logger without handlers.
        logger.handlers.clear()
        logger.propagate, logger.disabled = False, True


def _timestamp(at: float) -> str:
    second, fraction = divmod(int(at * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{fraction:06d}Z"


def _stamped(logger: Any, method: str, event: Event) -> Event:
    event["timestamp"] = _timestamp(time.time())
    return event


def _plain(logger: Any, method: str, event: Event) -> Event:
    event.pop("color_message", None)  # uvicorn's, the same event with escape sequences
    return event


def _exceptions(logger: Any, method: str, event: Event) -> Event:
    del event["_record"], event["_from_structlog"]
    if event.get("exc_info"):
        event = structlog.processors.format_exc_info(logger, method, event)
    if event.get("stack_info"):
        event["stack"] = event.pop("stack_info")
    return event


def _masked(logger: Any, method: str, event: Event) -> Event:
    return {
        key: mask_text(str(value), MAX_EXCEPTION) if key in _BLOCKS else mask(key, value)
        for key, value in event.items()
    }


def _json(logger: Any, method: str, event: Event) -> str:
    return _encode(event)


def _text(*, colors: bool) -> list[Processor]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_escaped, console]


def _escaped(logger: Any, method: str, event: Event) -> Event:
    return {
        _escape(key): _block(value) if key in _BLOCKS else _escape(value)
        for key, value in event.items()
    }


def _escape(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def _block(text: str) -> str:
    # Indented, so that no line of a message can pass for a line of the log.
    return "\n".join(f"    {_escape(line)}" for line in text.split("\n"))


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _stamped,
]
_CHAIN: list[Processor] = [
    structlog.stdlib.filter_by_level,
    *_SHARED,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    ProcessorFormatter.wrap_for_formatter,
]
