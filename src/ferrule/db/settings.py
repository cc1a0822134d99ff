"""Settings of the database room."""

from pydantic import Field

from ferrule.module import SettingsGroup


class DatabaseSettings(SettingsGroup):
    """Pools, deadlines and migrations (`FERRULE_DATABASE__…`)."""

    pool_size: int = Field(
        default=10, ge=1, le=500, description="Connections per process to PostgreSQL."
    )
    readers: int = Field(default=4, ge=1, le=64, description="Connections that read, on SQLite.")
    wait: float = Field(
        default=5.0,
        gt=0,
        le=120,
        description="Seconds to wait for a connection or the writer; then 503.",
    )
    statement_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that a statement may run, on PostgreSQL."
    )
    idle_timeout: float = Field(
        default=300.0,
        ge=0,
        le=3600,
        description="Seconds that a transaction may stand still before PostgreSQL ends it and its "
        "locks, as of a process that is frozen; 0: for ever. Those of jobs have the lease.",
    )
    pooler: bool = Field(
        default=False,
        description="Whether PgBouncer or another pooler in transaction mode stands before "
        "PostgreSQL; set its timeouts on the role then: of statements, of transactions that stand "
        "still, of keepalives; none is sent.",
    )
    migrate_on_start: bool = Field(
        default=False, description="Upgrade PostgreSQL at the start, too (SQLite always is)."
    )
    lock_timeout: float = Field(
        default=5.0, gt=0, le=600, description="Seconds that a migration waits for a table's lock."
    )
    migration_wait: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="Seconds to wait for a migration of another process.",
    )
