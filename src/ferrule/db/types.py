"""Column types that answer alike on SQLite and PostgreSQL."""

import json
import math
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Numeric
from sqlalchemy.types import TypeDecorator, TypeEngine

MAX_INT = 2**53
"""Integers in JSON are exact up to here in every client (RFC 8259, section 6)."""


_last = 0


def uuid7() -> UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): sorts by time, and within one process by creation."""
    global _last
    # Milliseconds and 12 bits of their fraction (RFC 9562, section 6.2, method 3).
    now = time.time_ns()
    stamp = (now // 1_000_000 << 12) | ((now % 1_000_000) * 4096 // 1_000_000)
    _last = stamp = max(stamp, _last + 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64
    value |= 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=value)


def utcnow() -> datetime:
    """The present time, in UTC and aware of it."""
    return datetime.now(UTC)


def _time_of_text(text: str | None) -> datetime | None:
    return text if text is None else datetime.fromisoformat(text + "+00:00")


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware in Python, always UTC, to the microsecond."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def normal(self, value: Any) -> Any:
        """The value as it will come back from the database; models hold it from the start."""
        return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without time zone cannot be stored: use ferrule.db.utcnow()")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        # PostgreSQL gives aware times; SQLAlchemy's way from text to time takes three steps.
        return _time_of_text if dialect.name == "sqlite" else None


class Money(TypeDecorator[Decimal]):
    """An exact decimal with fixed places; SQLite, which has no decimals, stores it scaled."""

    impl = Numeric
    cache_ok = True

    def __init__(self, precision: int = 14, scale: int = 2) -> None:
        super().__init__(precision, scale)
        self.scale = scale

    @property
    def python_type(self) -> type[Decimal]:
        return Decimal

    def normal(self, value: Any) -> Any:
        """The value as it will come back from the database; models hold it from the start."""
        if isinstance(value, Decimal) and value.is_finite():
            return value.quantize(Decimal(1).scaleb(-self.scale))
        return value

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(self.impl_instance)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return int(value.scaleb(self.scale).to_integral_exact())

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return value if value is None else Decimal(value).scaleb(-self.scale)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        # PostgreSQL's driver gives decimals.
        return super().result_processor(dialect, coltype) if dialect.name == "sqlite" else None


class Json(TypeDecorator[Any]):
    """JSON whose changes are noticed at any depth (see `ferrule.db.changes`)."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            # Imported here: with SQLite nobody needs that dialect.
            from sqlalchemy.dialects.postgresql import JSONB

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))


def to_json(value: Any) -> str:
    """JSON text as the database gets it; NaN and infinity, which JSON lacks, are a ValueError."""
    return _ENCODER.encode(value)


# Made once: with options, json.dumps makes one for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


Path = tuple[str | int, ...]


def json_problem(value: Any, *, depth: int) -> tuple[Path, str] | None:
    """Where and why a JSON value cannot be stored alike on both databases; None if it can.

    Refused are NUL and lone surrogates in text and keys, numbers beyond ±2^53 or not finite, and
    nesting deeper than `depth`.
    """
    if isinstance(value, str):
        problem = text_problem(value)
    elif isinstance(value, bool) or value is None:
        problem = None
    elif isinstance(value, int):
        problem = None if -MAX_INT <= value <= MAX_INT else "an integer is beyond ±2^53"
    elif isinstance(value, float):
        problem = _float_problem(value)
    elif isinstance(value, dict | list):
        return _nested_problem(cast(Any, value), depth)
    else:
        problem = f"{type(value).__name__} is not JSON"
    return ((), problem) if problem else None


def _float_problem(value: float) -> str | None:
    if not math.isfinite(value):
        return "a number is not finite"
    # PostgreSQL gives 1e300 back as an integer of 301 digits.
    return None if -MAX_INT <= value <= MAX_INT else "a number is beyond ±2^53"


def _nested_problem(value: dict[Any, Any] | list[Any], depth: int) -> tuple[Path, str] | None:
    if depth <= 0:
        return (), "it is nested too deeply"
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(key, str) and (problem := text_problem(key)):
            return (), problem
        if found := json_problem(child, depth=depth - 1):
            return (key, *found[0]), found[1]
    return None


def text_problem(value: str) -> str | None:
    """Why text cannot be stored (PostgreSQL refuses NUL, UTF-8 lone surrogates), None if it can."""
    if "\x00" in value:
        return "text holds a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text holds a lone surrogate"
    return None
