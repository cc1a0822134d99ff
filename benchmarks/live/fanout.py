"""Fan-out: all servers are up with a thousand readers each, and take turns every few seconds."""

import gc
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks import processes
from benchmarks.data import uuid7
from benchmarks.live import READERS, LiveContender
from benchmarks.live.crowd import Crowd
from benchmarks.live.servers import Stores, dialect, live_server
from benchmarks.live.sockets import Sockets
from benchmarks.rounds import Plan, calm, wait
from benchmarks.samples import LIMIT, Watch
from benchmarks.server import PORT

TURNS = 2
"""In each round: what disturbs for long disturbs all alike."""


@dataclass(frozen=True)
class FanOut:
    """Events delivered a second, µs of the server's CPU for each, and what they had of their cores:
    the server, and the clients."""

    rate: float
    cpu: float
    server: float
    clients: float
    lost: int
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


@dataclass
class FanOutResult:
    """The turns of a contender, and the length of its frames."""

    contender: LiveContender
    frame: int = 0
    samples: list[FanOut] = field(default_factory=list)

    def middle(self, name: str = "rate") -> float:
        """The median of the turns that count."""
        return median(getattr(sample, name) for sample in calm(self.samples))

    def times(self, other: "FanOutResult") -> float:
        """How many times the rate of another: the median over the turns, each beside its own.

        Where something disturbed every turn, of the rates for a second of the server's CPU.
        """
        pairs = list(zip(self.samples, other.samples, strict=True))
        quiet = [(mine, its) for mine, its in pairs if not (mine.disturbed or its.disturbed)]
        if quiet:
            return median(mine.rate / its.rate for mine, its in quiet)
        return median(its.cpu / mine.cpu for mine, its in pairs)

    @property
    def noise(self) -> float:
        """How far apart the turns are, as a share of their median."""
        rates = [sample.rate for sample in calm(self.samples)]
        return (max(rates) - min(rates)) / median(rates)


FanOuts = Mapping[str, FanOutResult]


def run(contenders: Sequence[LiveContender], stores: Stores, plan: Plan) -> dict[str, FanOutResult]:
    """Measure every contender, by its key."""
    results = {each.key: FanOutResult(each) for each in contenders}
    with _crowds(contenders, stores) as crowds:
        for crowd in crowds:
            results[crowd.contender.key].frame = crowd.frame
            crowd.measure(plan.seconds / 4)
        ours = {pid for crowd in crowds for pid in crowd.pids} | plan.stores
        for _ in range(plan.rounds * TURNS):
            for crowd in random.sample(crowds, len(crowds)):
                sample = _calmly(crowd, ours, plan)
                results[crowd.contender.key].samples.append(sample)
    return results


@contextmanager
def _crowds(contenders: Sequence[LiveContender], stores: Stores) -> Iterator[list[Crowd]]:
    with ExitStack() as stack:
        sockets = stack.enter_context(closing(Sockets()))
        servers = [
            stack.enter_context(
                live_server(
                    each, stores, PORT + number, dialect(each, f"arena/{uuid7()}"), quiet=True
                )
            )
            for number, each in enumerate(contenders)
        ]
        gc.disable()
        stack.callback(gc.enable)
        yield [Crowd(sockets, server, READERS) for server in servers]


def _calmly(crowd: Crowd, ours: set[int], plan: Plan) -> FanOut:
    """Measure, and again where others were busy."""
    while True:
        sample = _take(crowd, ours, plan)
        if not sample.disturbed or plan.patience <= 0:
            return sample
        wait(plan, plan.seconds / TURNS)


def _take(crowd: Crowd, ours: set[int], plan: Plan) -> FanOut:
    watch = Watch(plan.postmaster, ours)
    used, own = processes.cpu(crowd.pids), time.process_time()
    got, lost, seconds = crowd.measure(plan.seconds / TURNS)
    own, used = time.process_time() - own, processes.cpu(crowd.pids) - used
    return FanOut(
        rate=got / seconds,
        cpu=used / max(1, got) * 1e6,
        server=used / seconds,
        clients=own / seconds,
        lost=lost,
        foreign=watch.since(ours)[1],
    )
