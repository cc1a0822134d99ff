"""Settings of the observability room."""

from typing import Literal

from pydantic import Field, SecretStr

from ferrule.module import SettingsGroup


class ObservabilitySettings(SettingsGroup):
    """Metrics, and warnings in development (`FERRULE_OBSERVABILITY__…`)."""

    metrics: Literal["public", "protected", "off"] | None = Field(
        default=None,
        description="Who may read /metrics: anybody, or who shows the metrics token or is an "
        "administrator; unset: public in development, protected in production.",
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token for a scraper of protected metrics."
    )
    slow_callback: float | None = Field(
        default=0.1,
        ge=0,
        le=60,
        description="Seconds for which a callback may hold the event loop; longer is warned of, "
        "in development only. 0: never.",
    )
    max_queries: int | None = Field(
        default=20,
        ge=0,
        le=100_000,
        description="Queries that a request may run; more are warned of, in development only. "
        "0: never.",
    )
