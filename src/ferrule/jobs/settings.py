"""Settings of the jobs."""

from pydantic import Field

from ferrule.module import SettingsGroup


class JobsSettings(SettingsGroup):
    """Workers, leases, how long jobs are kept (`FERRULE_JOBS__…`)."""

    embedded: bool = Field(
        default=True,
        description="Whether each server process works on jobs, too; SQLite has no other workers.",
    )
    concurrency: int = Field(
        default=8, ge=1, le=1000, description="Jobs that a worker runs at the same time."
    )
    lease: float = Field(
        default=30.0,
        ge=2,
        le=3600,
        description="Seconds after which the work of a dead worker runs elsewhere.",
    )
    poll: float = Field(
        default=0.2,
        gt=0,
        le=60,
        description="Seconds between two looks at the queue where no hint came.",
    )
    grace: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds that running jobs get to end when a worker is stopped; then they are "
        "handed back.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of FERRULE_HOST on which `ferrule worker` answers /metrics; unset: none.",
    )
    keep: float = Field(
        default=7.0, gt=0, le=3650, description="Days that completed and cancelled jobs are kept."
    )
    keep_failed: float = Field(
        default=30.0, gt=0, le=3650, description="Days that failed jobs are kept."
    )
