"""Streams: durable logs with offsets, everything that is live, and who is connected.

from ferrule.streams import Channel, Connections
"""

from ferrule.streams.channels import Channel
from ferrule.streams.connection import Connection
from ferrule.streams.connections import ConnectionManager, Connections, Counts
from ferrule.streams.control import recheck, recheck_channel
from ferrule.streams.log import drop, redact, redact_user

__all__ = [
    "Channel",
    "Connection",
    "ConnectionManager",
    "Connections",
    "Counts",
    "drop",
    "recheck",
    "recheck_channel",
    "redact",
    "redact_user",
]
