"""Ids as Ferrule makes them, so that all contenders give the database's index the same work."""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """A UUIDv7, which Python has from 3.14 on."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
