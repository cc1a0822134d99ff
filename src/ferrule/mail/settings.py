"""Settings of the mail room."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from ferrule.module import SettingsGroup


class MailSettings(SettingsGroup):
    """Outgoing mail (`FERRULE_MAIL__…`)."""

    host: str | None = Field(
        default=None,
        description="SMTP server that takes the mails; unset: they are printed in development, "
        "and fail in production.",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Its port; unset: 587 with starttls, 465 with tls, 25 with none.",
    )
    encryption: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="`starttls` and `tls` send nothing before the connection is encrypted and the "
        "certificate verified; `none` is for a server on this machine.",
    )
    username: str | None = Field(default=None, description="Account at the SMTP server.")
    password: SecretStr | None = Field(default=None, description="Its password.")
    sender: str | None = Field(
        default=None,
        description="Who the mails come from, as in `Shop <mail@shop.org>`; needed with a host.",
    )
    timeout: float = Field(
        default=20.0, gt=0, le=300, description="Seconds that each step with the server may take."
    )
    templates: Path | None = Field(
        default=None,
        description="Folder of templates that are taken instead of those of the modules, as in "
        "`<folder>/<module>/<name>.txt`.",
    )
