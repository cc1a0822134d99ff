"""Queues are driven by lines, and what was measured of them is told and judged."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from benchmarks import processes
from benchmarks.jobs import (
    EFFECT,
    EMPTY,
    FERRULE_POSTGRESQL,
    FERRULE_SQLITE,
    JOB_CONTENDERS,
    PROCRASTINATE,
    TASKS,
    JobContender,
)
from benchmarks.jobs.child import Child
from benchmarks.jobs.children import child
from benchmarks.jobs.notes import notes
from benchmarks.jobs.report import job_lines, job_verdicts
from benchmarks.jobs.rounds import OTHER, SAME, JobResult, JobSample, Pickups, run
from benchmarks.jobs.stores import store
from benchmarks.rounds import Plan

PLAN = Plan(rounds=1, seconds=1, starts=1, patience=0, jobs=20, pickups=3)


def result(contender: JobContender, *rates: float, foreign: float = 0.0) -> JobResult:
    found = JobResult(contender)
    found.samples = {
        task: [JobSample(rate, 1e6 / rate, foreign) for rate in rates] for task in TASKS
    }
    found.pickups = {SAME: [Pickups([3.0, 1.0], foreign), Pickups([2.0], foreign)]}
    return found


def test_targets_are_judged() -> None:
    found = {
        FERRULE_POSTGRESQL.key: result(FERRULE_POSTGRESQL, 400, 600, 700),
        FERRULE_SQLITE.key: result(FERRULE_SQLITE, 249),
    }
    met = {each.target: each.met for each in job_verdicts(found)}
    assert met["Ferrule on PostgreSQL, empty job: ≥ 500 a second"] is True
    assert met["Ferrule on SQLite, job with one INSERT: ≥ 250 a second"] is False


def test_rates_and_pick_ups_are_told_beside_a_peer() -> None:
    found = {
        each.key: result(each, rate)
        for each, rate in ((FERRULE_POSTGRESQL, 300), (PROCRASTINATE, 100))
    }
    text = "\n".join(job_lines(found, 1000))
    assert "| empty job | Ferrule on PostgreSQL | 300 | 3.00 | 3333 | 0% |" in text
    assert "| procrastinate on PostgreSQL | 2.0 | 3.0 | 3 | - | - | - |" in text


def test_disturbed_samples_are_marked_and_count_where_there_are_no_others() -> None:
    found = result(FERRULE_SQLITE, 100, foreign=0.5)
    assert "| empty job | Ferrule on SQLite | 100* |" in "\n".join(
        job_lines({"sqlite": found}, 1000)
    )
    found.samples[EMPTY].append(JobSample(200, 1, 0.0))
    found.pickups[SAME].append(Pickups([9.0], 0.0))
    assert found.middle(EMPTY) == 200
    assert found.middle(EFFECT) == 100
    assert found.pickup(SAME) == [9.0]
    assert found.pickup(OTHER) == []


def test_contenders_have_keys_of_their_own_and_say_the_same_things() -> None:
    assert len({each.key for each in JOB_CONTENDERS}) == len(JOB_CONTENDERS)
    assert len({tuple(each.keeps) for each in JOB_CONTENDERS}) == 1


def test_ferrule_is_measured_on_sqlite(tmp_path: Path) -> None:
    found = run([FERRULE_SQLITE], {"sqlite": f"sqlite:///{tmp_path}/bench.db"}, PLAN)
    measured = found[FERRULE_SQLITE.key]
    assert all(measured.middle(task) > 0 for task in TASKS)
    assert len(measured.pickup(SAME)) == PLAN.pickups
    assert all(0 <= each < 10_000 for each in measured.pickup(SAME))


def test_a_process_that_does_not_answer_is_told_with_its_log() -> None:
    nobody = JobContender("nobody", "nobody", "nobody", "sqlite", {})
    urls = {"sqlite": "sqlite:///nowhere.db"}
    with (
        child(nobody, urls, processes.LOAD) as started,
        pytest.raises(SystemExit, match="StopIteration"),
    ):
        started.hear()


class Forgetful:
    """A queue whose jobs begin at once, and store nothing."""

    def __init__(self) -> None:
        self._asked: list[int] = []

    async def clear(self) -> None:
        self._asked.clear()

    async def ask(self, task: str, numbers: Sequence[int]) -> None:
        self._asked += numbers

    async def left(self) -> int:
        return 0

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        for number in self._asked:
            notes.begun(number)
        yield


async def test_jobs_whose_effects_are_lost_are_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRULE_DATABASE_URL", f"sqlite:///{tmp_path}/bench.db")
    async with store() as opened:
        told = Child(Forgetful(), opened, lambda answer: None)
        assert (await told.throughput(EMPTY, 10))["seconds"] > 0
        with pytest.raises(RuntimeError, match="10 x job with one INSERT have stored 0 entries"):
            await told.throughput(EFFECT, 80)
