"""Settings of the streams."""

from pydantic import Field

from ferrule.module import SettingsGroup


class StreamsSettings(SettingsGroup):
    """Live connections and the bus (`FERRULE_STREAMS__…`)."""

    namespace: str = Field(
        default="ferrule",
        min_length=1,
        max_length=50,
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="Prefix of what is kept in Redis; applications that share one need their own.",
    )
    max_message: int = Field(
        default=65_536,
        ge=1024,
        le=2**20,
        description="Bytes of a message that a client sends over a WebSocket.",
    )
    rate: float = Field(
        default=50.0, gt=0, le=100_000, description="Messages a second that a client may send."
    )
    burst: int = Field(
        default=200, ge=1, le=100_000, description="Messages that it may send at once."
    )
    subscriptions: int = Field(
        default=100, ge=1, le=10_000, description="Channels that one connection may subscribe to."
    )
    per_user: int = Field(
        default=50,
        ge=1,
        le=1_000_000,
        description="Live connections of one user, in each server process.",
    )
    per_address: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Live connections from one address, in each server process.",
    )
    ping: float = Field(
        default=25.0,
        gt=0,
        le=300,
        description="Seconds between two signs of life; a peer silent for two of them is gone.",
    )
    backlog: int = Field(
        default=262_144,
        ge=1024,
        le=2**26,
        description="Bytes kept for a connection that does not take them; beyond, events are read "
        "from the log when it does.",
    )
    stalled: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Seconds after which a connection that takes nothing is closed.",
    )
    ticket_ttl: int = Field(
        default=30, ge=5, le=300, description="Seconds that a ticket for a WebSocket is valid."
    )
    drain: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="Seconds over which live connections are sent away when the server stops.",
    )
