"""Settings of the rooms."""

from pydantic import Field

from ferrule.module import SettingsGroup


class RoomsSettings(SettingsGroup):
    """How large rooms may get, and how many (`FERRULE_ROOMS__…`)."""

    max_members: int = Field(
        default=1000, ge=2, le=100_000, description="Members that a room has at most."
    )
    max_rooms: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Rooms that somebody makes, joins or opens "
        "at most; those to which others add them do not count.",
    )
