"""Turns log events into lines: JSON, or text in which no value can forge a line."""

import json
import re
import time
from collections.abc import MutableMapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import structlog
from pydantic_core import to_json
from structlog.typing import Processor

from ferrule.observability.masking import mask, mask_text

MAX_EXCEPTION = 32_768
"""Characters of one logged exception."""

Event = MutableMapping[str, Any]

# What ends a line, moves the cursor, reorders text or cannot be encoded.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BLOCKS = ("exception", "stack")


def timestamp(at: float) -> str:
    """ISO 8601 in UTC with microseconds, of seconds since the epoch."""
    second, fraction = divmod(int(at * 1_000_000), 1_000_000)
    return f"{_second(second)}.{fraction:06d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered, which every line carries."""


def identify(logger: Any, method: str, event: Event) -> Event:
    """Processor that adds the id of the request."""
    if "request_id" not in event and (id := request_id.get()) is not None:
        event["request_id"] = id
    return event


def stamp(logger: Any, method: str, event: Event) -> Event:
    """Processor that adds the time."""
    event["timestamp"] = timestamp(time.time())
    return event


def trim(logger: Any, method: str, event: Event) -> Event:
    """Processor that drops what others left on a record: the same message, rendered by them."""
    for name in ("message", "asctime", "color_message"):
        event.pop(name, None)
    return event


def expand(logger: Any, method: str, event: Event) -> Event:
    """Processor that renders exceptions and stacks, without local variables."""
    del event["_record"], event["_from_structlog"]
    if event.get("exc_info"):
        event = structlog.processors.format_exc_info(logger, method, event)
    if "stack_info" in event:
        event["stack"] = event.pop("stack_info")
    return event


def conceal(logger: Any, method: str, event: Event) -> Event:
    """Processor that masks secrets in every value, the event and the exception among them."""
    return {
        mask_text(key): mask_text(str(value), MAX_EXCEPTION) if key in _BLOCKS else mask(key, value)
        for key, value in event.items()
    }


def as_json(logger: Any, method: str, event: Event) -> str:
    """Processor that renders one line of JSON, in ASCII, which nothing can break or reorder."""
    try:
        return to_json(event, ensure_ascii=True).decode()
    except ValueError:  # a lone surrogate; the standard library is slower and escapes it
        return json.dumps(event, separators=(",", ":"))


def as_text(*, colors: bool) -> list[Processor]:
    """Processors that render text for people."""
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
