"""What is answered over HTTP."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from ferrule.schemas import Schema, TextSchema


class TicketResponse(Schema):
    """Lets its bearer open one WebSocket or event stream: `?ticket=…`."""

    ticket: str
    expires_in: int = Field(description="Seconds that it is valid, for one use.")


class StreamedEvent(Schema):
    offset: int
    type: str
    data: Any
    at: datetime
    by: UUID | None = Field(description="Who did it.")


class EventPage(Schema):
    """Events of a stream after a place."""

    items: list[StreamedEvent]
    epoch: str | None = Field(description="Changes when the stream begins anew; null before.")
    top: int = Field(description="Offset of the last event.")
    reset: bool = Field(
        description="Events are missing between `since` and these: it was trimmed, or began anew."
    )


class StreamQuery(TextSchema):
    since: Annotated[str, Field(max_length=40)] | None = Field(
        default=None,
        description="[epoch:]offset, after which to read; 0 for all that is kept, with a reset if "
        "that is not all there was; left out: what comes from now on, for event streams, and all "
        "that is kept, for pages.",
    )
    limit: int = Field(default=50, ge=1, le=100, description="Events of a page.")
    ticket: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Instead of the Authorization header, which browsers cannot send."
    )
    wait: float = Field(
        default=0, ge=0, le=30, description="Seconds to wait for an event if there is none."
    )
