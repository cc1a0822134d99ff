"""The part of the report that is about jobs."""

from collections.abc import Iterator, Mapping
from statistics import median

from benchmarks.jobs import CONCURRENCY, EFFECT, EMPTY, PROCRASTINATE, TASKS
from benchmarks.jobs.rounds import OTHER, SAME, JobResult
from benchmarks.samples import LIMIT
from benchmarks.tables import table
from benchmarks.targets import Verdict

JobResults = Mapping[str, JobResult]

LEAST = {"jobs-postgresql": 500, "jobs-sqlite": 250}
"""Jobs a second that Ferrule promises, on one core beside the server."""


def job_lines(found: JobResults, jobs: int) -> Iterator[str]:
    """All but the targets, of measurements of so many jobs each."""
    yield from ("", "## Jobs", "", *_method(found, jobs), "")
    yield from (*_rates(found), "", *_pickups(found), "", *_promises(found))


def job_verdicts(found: JobResults) -> Iterator[Verdict]:
    """The targets whose contenders took part."""
    for key, least in LEAST.items():
        for task in TASKS:
            if key in found:
                rate, who = found[key].middle(task), found[key].contender
                target = f"{who.name}, {task}: ≥ {least} a second"
                yield Verdict(who.store, target, f"{rate:.0f}", rate >= least)


def _method(found: JobResults, jobs: int) -> Iterator[str]:
    samples = [
        each
        for one in found.values()
        for many in (*one.samples.values(), *one.pickups.values())
        for each in many
    ]
    rounds = max(len(each) for one in found.values() for each in one.samples.values())
    yield (
        f"Each rate is the median of {rounds} rounds of {jobs} jobs that were enqueued "
        f"before, after a smaller warm-up: from the start of the worker in a process that is up to "
        f"the last completion that its store has recorded. One process on a core of its own, "
        f"{CONCURRENCY} jobs at a time; PostgreSQL and Redis on another. A job with one INSERT "
        f"stores a row in PostgreSQL or, for Ferrule on SQLite, there: Ferrule's through "
        f"`run.session`, once, with its end; the others' on a pool of the job's own. Each worker "
        f"runs on the loop that its command gives it, Ferrule's on SQLite as in a server. A "
        f"pick-up is the time from the commit of one job to its start by a worker that was idle."
    )
    yield ""
    yield (
        f"Foreign load: {median(s.foreign for s in samples):.1%} of a core in the middle, "
        f"{max(s.foreign for s in samples):.1%} at worst; "
        f"{sum(s.disturbed for s in samples)} of {len(samples)} samples had more than {LIMIT:.0%} "
        f"to the end, and count only where there are no others (marked *)."
    )


def _rates(found: JobResults) -> Iterator[str]:
    peer = found.get(PROCRASTINATE.key)
    rows = [
        (
            task,
            one.contender.name,
            f"{one.middle(task):.0f}{'*' if one.counted(task)[0].disturbed else ''}",
            f"{one.middle(task) / peer.middle(task):.2f}" if peer else "-",
            f"{one.middle(task, 'cpu'):.0f}",
            f"{one.noise(task):.0%}",
        )
        for task in (EMPTY, EFFECT)
        for one in found.values()
    ]
    return table(("", "contender", "jobs/s", "x procrastinate", "CPU µs", "noise"), rows)


def _pickups(found: JobResults) -> Iterator[str]:
    places = (SAME, OTHER)
    rows = [
        (one.contender.name, *(figure for where in places for figure in _spread(one.pickup(where))))
        for one in found.values()
    ]
    columns = (f"{where}, {what}" for where in places for what in ("median ms", "p99 ms", "jobs"))
    return table(("pick-up by a worker in the", *columns), rows, left=1)


def _spread(ordered: list[float]) -> tuple[str, str, str]:
    if not ordered:
        return ("-", "-", "-")
    late = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (f"{median(ordered):.1f}", f"{late:.1f}", f"{len(ordered)}")


def _promises(found: JobResults) -> Iterator[str]:
    contenders = [one.contender for one in found.values()]
    rows = [(name, *(each.keeps[name] for each in contenders)) for name in contenders[0].keeps]
    return table(("", *(each.name for each in contenders)), rows, left=99)
