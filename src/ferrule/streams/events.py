"""Events as readers get them: encoded once, the same bytes in replay and live."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ferrule.db.types import to_json
from ferrule.errors import Invalid
from ferrule.streams.wire import Message

MAX_DATA = 49_152
"""Bytes of an event's data."""
MAX_TYPE = 100


class Event:
    """An event at its place in a stream; `message` is what all of its readers are sent."""

    __slots__ = ("_chunk", "_text", "message", "offset")
    message: Message

    def __init__(self, offset: int, text: bytes | Callable[[], bytes]) -> None:
        self.offset = offset
        self._text = text
        self._chunk: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        # Made when somebody first wants it: of most writes nobody does.
        if name != "message":
            raise AttributeError(name)
        text = self._text
        self.message = Message(text if isinstance(text, bytes) else text())
        return self.message

    def chunk(self, epoch: str) -> bytes:
        """The event as server-sent events have it."""
        if self._chunk is None:
            self._chunk = b"id: %s:%d\ndata: %s\n\n" % (
                epoch.encode(),
                self.offset,
                self.message.text,
            )
        return self._chunk


@dataclass(frozen=True, slots=True)
class Emitted:
    """An event before it has its offset; `data` is JSON."""

    stream: str
    type: str
    data: str
    by: UUID | None
    at: datetime
    about: UUID | None = None

    def text(self, channel: str, offset: int) -> bytes:
        """The event as a message of its channel."""
        return f'{{"t":"ev","ch":{quoted(channel)},{self._fields(offset)}}}'.encode()

    def item(self, offset: int) -> bytes:
        """The event in a page."""
        return f"{{{self._fields(offset)}}}".encode()

    def _fields(self, offset: int) -> str:
        by = f'"{self.by}"' if self.by else "null"
        return (
            f'"offset":{offset},"type":{quoted(self.type)},"at":"{rfc3339(self.at)}",'
            f'"by":{by},"data":{self.data}'
        )


@dataclass(slots=True)
class Page:
    """Events after a place, with the head of their stream when they were read."""

    epoch: str | None
    top: int
    floor: int
    rows: "Sequence[tuple[int, Emitted]]"
    more: bool = False
    """Whether the page ended because it was full."""
    _events: list[Event] = field(default_factory=list[Event])

    def events(self, channel: str) -> list[Event]:
        """The same ones for all who share the page."""
        if not self._events:
            self._events = [Event(at, emitted.text(channel, at)) for at, emitted in self.rows]
        return self._events


def data_json(data: Any) -> str:
    """The JSON of an event's data; `Invalid` if it is too large to be sent.

    NaN, infinity and lone surrogates, which no reader could read, are a ValueError.
    """
    if isinstance(data, BaseModel):
        text = data.model_dump_json(by_alias=True)
    else:
        try:
            text = to_json(data)
        except TypeError:
            # With times, ids and decimals in it.
            text = to_json(to_jsonable_python(data, inf_nan_mode="constants"))
    if len(text.encode()) > MAX_DATA:
        raise Invalid(f"The data of an event has at most {MAX_DATA} bytes.")
    return text


def rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=1024)
def quoted(text: str) -> str:
    """Text as JSON."""
    return json.dumps(text, ensure_ascii=False)
