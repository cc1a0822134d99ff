"""The contenders that run jobs, each in one process of its own: `benchmarks.jobs.child`."""

from dataclasses import dataclass, field

TASKS = ("empty job", "job with one INSERT")
EMPTY, EFFECT = TASKS
CONCURRENCY = 8
"""Jobs that each worker runs at the same time, which is what Ferrule's does by itself."""
PAUSE = (0.03, 0.23)
"""Seconds between two jobs of which each finds its worker idle: spread over the time from one look
at the queue to the next, so that they are not met at the same moment of it."""


@dataclass(frozen=True)
class JobContender:
    """A queue: the module under `benchmarks.jobs` that drives it, and where it keeps its jobs.

    `keeps` says what it promises, by its documentation and source, as that cannot be seen from
    outside. `served` if its worker lives in a server, on uvloop, and nowhere else.
    """

    key: str
    name: str
    module: str
    store: str
    keeps: dict[str, str] = field(hash=False)
    served: bool = False


def _promises(
    durable: str, joined: str, once: str, fenced: str, caps: str, retries: str, dead: str, log: str
) -> dict[str, str]:
    return {
        "a job survives a crash of the store": durable,
        "enqueued with the caller's transaction": joined,
        "its effect is stored with its end, once": once,
        "a worker that lost its job is kept from storing": fenced,
        "caps on what runs at once, exact": caps,
        "retries": retries,
        "jobs of a dead worker run elsewhere": dead,
        "logs each job": log,
    }


OURS = _promises(
    "yes", "yes", "yes", "yes", "any number, by key", "5, backoff", "yes, by lease", "yes"
)
PROCRASTINATORS = _promises(
    "yes", "yes, on the caller's connection", "no", "no", "one at a time, by lock",
    "if asked for", "if a task for it is written", "yes",
)  # fmt: skip
SAQS = _promises(
    "yes", "no", "no", "no", "by group, not exact", "if asked for",
    "by sweep, if retries are asked for", "no",
)  # fmt: skip
SAQS_ON_REDIS = _promises(
    "as Redis is configured", "no, another store", "no", "no", "none", "if asked for",
    "by sweep, if retries are asked for", "no",
)  # fmt: skip

FERRULE_POSTGRESQL = JobContender(
    "jobs-postgresql", "Ferrule on PostgreSQL", "ferrule", "postgresql", OURS
)
FERRULE_SQLITE = JobContender(
    "jobs-sqlite", "Ferrule on SQLite", "ferrule", "sqlite", OURS, served=True
)
PROCRASTINATE = JobContender(
    "procrastinate", "procrastinate on PostgreSQL", "procrastinate", "postgresql", PROCRASTINATORS
)
SAQ_POSTGRESQL = JobContender("saq-postgresql", "SAQ on PostgreSQL", "saq", "postgresql", SAQS)
SAQ_REDIS = JobContender("saq-redis", "SAQ on Redis", "saq", "redis", SAQS_ON_REDIS)
JOB_CONTENDERS = (FERRULE_POSTGRESQL, FERRULE_SQLITE, PROCRASTINATE, SAQ_POSTGRESQL, SAQ_REDIS)
