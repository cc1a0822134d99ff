"""Metrics of jobs: what ended here, and what stands in the queue."""

from datetime import timedelta

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import func, select

from ferrule.db.clock import database_now
from ferrule.db.database import Database
from ferrule.db.statements import prebuilt
from ferrule.jobs.models import FAILED, QUEUED, UNFINISHED, Job
from ferrule.kit import Kit
from ferrule.observability.metrics import Metrics

_OLDEST = prebuilt(
    select(func.min(Job.run_after).label("due"), database_now().label("now")).where(
        Job.status == QUEUED, Job.run_after <= database_now()
    )
)
BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
"""Upper bounds in seconds: from one statement to half an hour."""


class JobMetrics:
    """Counts what ends in this process; `refresh` asks the database for the state of the queue."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._ended = Counter(
            "job_attempts_total",
            "Attempts at jobs that ended in this process, by what the job was then.",
            ["kind", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "job_attempt_duration_seconds",
            "Time that an attempt took.",
            ["kind"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._jobs = Gauge(
            "jobs",
            "Jobs in the database that have not ended, or have failed.",
            ["kind", "status"],
            registry=registry,
        )
        self._age = Gauge(
            "job_queue_age_seconds",
            "How long the job waits that has been due for longest.",
            registry=registry,
        )
        metrics.before_render(self.refresh)

    def ended(self, kind: str, status: str, seconds: float | None) -> None:
        """An attempt has ended; `seconds` None where it was another worker's."""
        self._ended.labels(kind, status).inc()
        if seconds is not None:
            self._seconds.labels(kind).observe(seconds)

    async def refresh(self, kit: Kit) -> None:
        """Ask the database."""
        shown = Job.status.in_((*UNFINISHED, FAILED))
        counts = select(Job.kind, Job.status, func.count()).where(shown)
        counts = counts.group_by(Job.kind, Job.status)
        async with kit[Database].read() as session:
            found = (await session.execute(counts)).all()
            oldest = await session.fetch_one(_OLDEST)
        self._jobs.clear()
        for kind, status, number in found:
            self._jobs.labels(kind, status).set(number)
        waits = oldest.now - oldest.due if oldest and oldest.due else timedelta(0)
        self._age.set(waits.total_seconds())
