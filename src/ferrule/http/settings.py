"""Settings of the HTTP edge."""

from typing import Literal

from pydantic import Field

from ferrule.module import SettingsGroup


class HttpSettings(SettingsGroup):
    """The HTTP edge (`FERRULE_HTTP__…`)."""

    max_body: int = Field(
        default=1_048_576,
        ge=0,
        le=2**40,
        description="Bytes of a request's body, counted as it streams.",
    )
    max_json_depth: int = Field(
        default=64,
        ge=1,
        le=150,
        description="Levels that JSON may be nested in a body.",
    )
    envelope: Literal["never", "on_request", "always"] = Field(
        default="on_request",
        description="When answers are wrapped in {success, data}: `on_request` by Accept: "
        "application/vnd.ferrule.envelope+json.",
    )
    cors_credentials: bool = Field(
        default=True, description="Whether browsers may send cookies from the CORS origins."
    )
    grace: int = Field(
        default=20,
        ge=1,
        le=3600,
        description="Seconds that running requests get when the server stops.",
    )
