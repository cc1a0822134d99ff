"""Engines, units of work, the base of models and its types, listing, migrations."""

from ferrule.db.base import Base, Owned, SoftDeleted
from ferrule.db.database import Database, Read, Write
from ferrule.db.session import ReadSession, WriteSession
from ferrule.db.statements import Prebuilt, PrebuiltInsert, Row, Rows, prebuilt
from ferrule.db.types import Json, Money, UtcDateTime, utcnow, uuid7

__all__ = [
    "Base",
    "Database",
    "Json",
    "Money",
    "Owned",
    "Prebuilt",
    "PrebuiltInsert",
    "Read",
    "ReadSession",
    "Row",
    "Rows",
    "SoftDeleted",
    "UtcDateTime",
    "Write",
    "WriteSession",
    "prebuilt",
    "utcnow",
    "uuid7",
]
