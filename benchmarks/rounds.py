"""The contenders take turns, in an order that changes with each round."""

import random
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, TypeVar

from benchmarks import processes
from benchmarks.checks import see
from benchmarks.contenders import Contender
from benchmarks.data import Client, Data
from benchmarks.operations import GET, OPERATIONS, POST, Operation, requests, verify
from benchmarks.samples import LIMIT, Sample, Start, Watch, take
from benchmarks.server import Server, served

PAUSE = 10.0
"""Seconds to wait for others to be done, each time."""


class Measured(Protocol):
    """What was measured once."""

    @property
    def foreign(self) -> float: ...

    @property
    def disturbed(self) -> bool: ...


T = TypeVar("T", bound=Measured)


@dataclass
class Plan:
    """How much is measured; `patience` are the seconds that foreign load may cost, in all.

    `jobs` are those of one measurement, `pickups` those that find an idle worker; `stores` are
    processes beside PostgreSQL's that serve the contenders.
    """

    rounds: int
    seconds: float
    starts: int
    patience: float
    postmaster: int | None = None
    jobs: int = 1000
    pickups: int = 25
    stores: Set[int] = frozenset()


@dataclass
class Result:
    """All that was measured of a contender on one database; memory is in MiB."""

    contender: Contender
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    lost: int = 0

    def counted(self, operation: Operation) -> list[Sample]:
        """The samples that count: those that nothing disturbed, or all if there are none."""
        return calm(self.samples[operation.name])

    def middle(self, operation: Operation, name: str) -> float:
        """The median of the rounds."""
        return median(getattr(sample, name) for sample in self.counted(operation))

    def noise(self, operation: Operation) -> float:
        """How far apart the rounds are, as a share of their median."""
        rates = [sample.rate for sample in self.counted(operation)]
        return (max(rates) - min(rates)) / median(rates)

    @property
    def at_rest(self) -> float:
        return median(self.rest)

    @property
    def cold_start(self) -> float:
        """Seconds, in the middle of all starts that count."""
        return median(start.seconds for start in calm(self.starts))


def calm(measured: list[T]) -> list[T]:
    """Those that nothing disturbed, or all if there are none."""
    return [each for each in measured if not each.disturbed] or measured


def run(data: Data, contenders: Sequence[Contender], plan: Plan) -> dict[str, Result]:
    """Measure every contender, by its key."""
    results = {contender.key: Result(contender) for contender in contenders}
    for result in results.values():
        _look(result, data)
    for _ in range(plan.rounds):
        for result in random.sample(list(results.values()), len(results)):
            with _started(result, data, plan) as server:
                result.rest.append(processes.memory(server.pids))
                made = sum(_measure(result, server, data, plan))
                result.loaded.append(processes.memory(server.pids))
            result.lost += max(0, made - data.tidy())
    for _ in range(plan.starts):
        for result in random.sample(list(results.values()), len(results)):
            with _started(result, data, plan):
                pass
    return results


@contextmanager
def _started(result: Result, data: Data, plan: Plan) -> Iterator[Server]:
    """The contender's server, whose cold start is noted."""
    watch = Watch(plan.postmaster)
    with served(result.contender, data.url, _first(result.contender, data.clients)) as server:
        result.starts.append(Start(server.started, watch.since(server.pids)[1]))
        yield server


def _first(contender: Contender, clients: Sequence[Client]) -> bytes:
    return requests(GET, contender, clients)[0]


def _look(result: Result, data: Data) -> None:
    """What cannot be told from a load: whether the answers are right, and what is checked."""
    with served(result.contender, data.url, _first(result.contender, data.clients)) as server:
        for operation in OPERATIONS:
            verify(operation, server, data.clients[0])
        result.checks = see(server, data)
    data.tidy()


def wait(plan: Plan, again: float) -> None:
    """Wait until others are done, a while at most; so do the seconds to measure `again` count."""
    began = time.monotonic()
    while time.monotonic() - began < min(PAUSE, plan.patience):
        watch = Watch(plan.postmaster)
        time.sleep(0.3)
        if watch.since(frozenset())[1] <= LIMIT:
            break
    plan.patience -= time.monotonic() - began + again


def _measure(result: Result, server: Server, data: Data, plan: Plan) -> Iterator[int]:
    """Sample all operations, and again where others were busy; yields the rows that were made."""
    for operation in OPERATIONS:
        while True:
            sample = take(server, operation, data, seconds=plan.seconds, postmaster=plan.postmaster)
            if operation is POST:
                yield sample.acknowledged
            if not sample.disturbed or plan.patience <= 0:
                break
            wait(plan, 1.25 * plan.seconds)
        result.samples.setdefault(operation.name, []).append(sample)
