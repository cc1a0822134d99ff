"""The queues take turns, as the servers do: how many jobs a second, and how soon one begins."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TypeVar

from benchmarks import processes
from benchmarks.jobs import PAUSE, TASKS, JobContender
from benchmarks.jobs.children import Child, child
from benchmarks.rounds import Plan, calm, wait
from benchmarks.samples import LIMIT, Watch

SAME, OTHER = "same process", "another process"


@dataclass(frozen=True)
class JobSample:
    """Jobs a second, and µs of the worker's CPU for each."""

    rate: float
    cpu: float
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


@dataclass(frozen=True)
class Pickups:
    """Milliseconds from commits to the starts of their jobs, each of which found an idle worker."""

    milliseconds: list[float]
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


S = TypeVar("S", JobSample, Pickups)


@dataclass
class JobResult:
    """All that was measured of a queue: samples by task, pick-ups by where the worker was."""

    contender: JobContender
    samples: dict[str, list[JobSample]] = field(default_factory=dict)
    pickups: dict[str, list[Pickups]] = field(default_factory=dict)

    def counted(self, task: str) -> list[JobSample]:
        """The samples that count: those that nothing disturbed, or all if there are none."""
        return calm(self.samples[task])

    def middle(self, task: str, name: str = "rate") -> float:
        """The median of the rounds."""
        return median(getattr(sample, name) for sample in self.counted(task))

    def noise(self, task: str) -> float:
        """How far apart the rounds are, as a share of their median."""
        rates = [sample.rate for sample in self.counted(task)]
        return (max(rates) - min(rates)) / median(rates)

    def pickup(self, where: str) -> list[float]:
        """The times of all rounds that count, in order; none if it has no such worker."""
        counted = calm(self.pickups.get(where, []))
        return sorted(each for one in counted for each in one.milliseconds)


def run(
    contenders: Sequence[JobContender], urls: Mapping[str, str], plan: Plan
) -> dict[str, JobResult]:
    """Measure every queue, by its key."""
    results = {contender.key: JobResult(contender) for contender in contenders}
    for _ in range(plan.rounds):
        for result in random.sample(list(results.values()), len(results)):
            _round(result, urls, plan)
    return results


def _round(result: JobResult, urls: Mapping[str, str], plan: Plan) -> None:
    contender = result.contender
    with ExitStack() as stack:
        worker = stack.enter_context(child(contender, urls, processes.SERVER))
        children = [worker]
        if not contender.served:
            children.append(stack.enter_context(child(contender, urls, processes.LOAD)))
        for each in children:
            each.hear()
        for task in TASKS:
            drain = partial(_drain, worker, task, plan.jobs)
            result.samples.setdefault(task, []).append(_calmly(drain, plan, worker))
        embedded = partial(_embedded, worker, plan.pickups)
        result.pickups.setdefault(SAME, []).append(_calmly(embedded, plan, worker))
        for asker in children[1:]:
            apart = partial(_apart, worker, asker, plan.pickups)
            result.pickups.setdefault(OTHER, []).append(_calmly(apart, plan, *children))


def _drain(worker: Child, task: str, jobs: int) -> Callable[[float], JobSample]:
    found = worker.tell("throughput", task, jobs)
    return partial(JobSample, jobs / found["seconds"], found["cpu"] / jobs * 1e6)


def _embedded(worker: Child, number: int) -> Callable[[float], Pickups]:
    found = worker.tell("embedded", number)["seconds"]
    return partial(Pickups, [seconds * 1000 for seconds in found])


def _apart(worker: Child, asker: Child, number: int) -> Callable[[float], Pickups]:
    """One process commits jobs, another begins them."""
    worker.tell("work")
    found: list[float] = []
    for _ in range(number):
        time.sleep(random.uniform(*PAUSE))
        committed = asker.tell("ask")["committed"]
        # It may have begun before the commit was heard of.
        found.append(max(0.0, worker.hear()["began"] - committed) * 1000)
    worker.tell("rest")
    return partial(Pickups, found)


def _calmly(measure: Callable[[], Callable[[float], S]], plan: Plan, *children: Child) -> S:
    """Measure, and again where others were busy; `measure` waits for what those had."""
    while True:
        began = time.monotonic()
        pids = {pid for each in children for pid in each.pids}
        watch = Watch(plan.postmaster, pids | plan.stores)
        found = measure()(watch.since(pids | plan.stores)[1])
        if not found.disturbed or plan.patience <= 0:
            return found
        wait(plan, time.monotonic() - began)
