"""jobs"""

import sqlalchemy as sa
from alembic import op

from ferrule.db import types

revision = "jobs_0001"
down_revision = None
branch_labels = ("jobs",)
depends_on = None


def _index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "jobs", columns, postgresql_where=condition, sqlite_where=condition)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("payload", types.Json(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("run_after", types.UtcDateTime(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("lease_until", types.UtcDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("cancel_requested_at", types.UtcDateTime(), nullable=True),
        sa.Column("concurrency_key", sa.String(length=301), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("progress", sa.Float(), nullable=True),
        sa.Column("note", sa.String(length=200), nullable=True),
        sa.Column("result", types.Json(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.String(length=200), nullable=True),
        sa.Column("started_at", types.UtcDateTime(), nullable=True),
        sa.Column("finished_at", types.UtcDateTime(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", types.UtcDateTime(), nullable=False),
        sa.Column("updated_at", types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    due = ["priority", "run_after", "id"]
    _index("ix_jobs_due", due, "status = 'queued' AND concurrency_key IS NULL")
    _index(
        "ix_jobs_due_by_key",
        ["concurrency_key", *due],
        "status = 'queued' AND concurrency_key IS NOT NULL",
    )
    _index("ix_jobs_running_by_key", ["concurrency_key"], "status = 'running'")
    _index("ix_jobs_lease", ["lease_until"], "status = 'running'")
    _index("ix_jobs_owner", ["owner"], "status = 'running'")
    op.create_index("ix_jobs_status_finished_at", "jobs", ["status", "finished_at"])
    op.create_index("ix_jobs_actor_id_id", "jobs", ["actor_id", "id"])
    op.create_index(
        "uq_jobs_kind_idempotency_key", "jobs", ["kind", "idempotency_key"], unique=True
    )
    op.create_table(
        "job_schedules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("spec", sa.String(length=200), nullable=False),
        sa.Column("next_at", types.UtcDateTime(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", types.UtcDateTime(), nullable=False),
        sa.Column("updated_at", types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_schedules")),
    )
    op.create_index("uq_job_schedules_kind_spec", "job_schedules", ["kind", "spec"], unique=True)


def downgrade() -> None:
    op.drop_table("job_schedules")
    op.drop_table("jobs")
