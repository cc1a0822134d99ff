"""Settings of the observability room."""

from typing import Literal

from pydantic import Field, SecretStr

from ferrule.module import SettingsGroup


class ObservabilitySettings(SettingsGroup):
    """Metrics (`FERRULE_OBSERVABILITY__…`)."""

    metrics: Literal["public", "protected", "off"] | None = Field(
        default=None,
        description="Who may read /metrics: anybody, or who shows the metrics token or is an "
        "administrator; unset: public in development, protected in production.",
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token for a scraper of protected metrics."
    )
