"""Settings of the auth module."""

from typing import Literal

from pydantic import Field

from ferrule.kit import Kit
from ferrule.module import SettingsGroup

Registration = Literal["open", "verified", "closed"]
MAX_PASSWORD = 1024
"""Characters of a password; a longer one is refused before it is hashed."""


class AuthSettings(SettingsGroup):
    """Accounts and logins (`FERRULE_AUTH__…`)."""

    access_ttl: int = Field(
        default=900, ge=10, le=86_400, description="Seconds an access token lives."
    )
    refresh_ttl: int = Field(
        default=2_592_000,
        ge=60,
        le=31_536_000,
        description="Seconds a login lives since it was last refreshed.",
    )
    refresh_grace: int = Field(
        default=10,
        ge=0,
        le=300,
        description="Seconds in which a refresh may be asked again, as its answer was lost; "
        "afterwards showing a used refresh token ends the login.",
    )
    registration: Registration | None = Field(
        default=None,
        description="`open`: at once; `verified`: an administrator lets people in; `closed`: "
        "administrators make accounts. Unset: open in development, verified in production.",
    )
    password_min: int = Field(
        default=15, ge=8, le=128, description="Characters that a new password has at least."
    )
    password_max: int = Field(
        MAX_PASSWORD, ge=64, le=MAX_PASSWORD, description="Characters that it has at most."
    )
    setup_ttl: int = Field(
        default=1_800,
        ge=60,
        le=86_400,
        description="Seconds that the link lives by which the first administrator is made.",
    )


def registration(kit: Kit) -> Registration:
    """Who may make an account, as set or as the environment has it."""
    # Imported here: the application's settings hold the settings of the modules.
    from ferrule.settings import Settings

    chosen = kit[AuthSettings].registration
    return chosen or ("verified" if kit[Settings].production else "open")
