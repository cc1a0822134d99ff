"""How soon a durable message is with its readers, whether their server committed it or another."""

import gc
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.data import uuid7
from benchmarks.live import (
    DURABLE_POSTGRESQL,
    DURABLE_REDIS,
    DURABLE_SQLITE,
    LiveContender,
)
from benchmarks.live.servers import Stores, dialect, live_server
from benchmarks.live.sockets import Peer, Sockets
from benchmarks.rounds import Plan, calm, wait
from benchmarks.samples import LIMIT, Watch
from benchmarks.server import PORT

READERS = 100
EVERY = 0.02
"""Seconds between two messages."""
PATIENCE = 5.0
"""Seconds in which the last must come; what comes later is lost."""
NUMBER = re.compile(rb"number (\d+)")
FILLING = " of those that readers wait for" * 3


@dataclass(frozen=True)
class Case:
    """Ferrule on a database: whose processes the readers and the writer are connected to."""

    contender: LiveContender
    name: str
    processes: int = 1

    @property
    def key(self) -> str:
        return f"{self.contender.store}-{self.contender.bus}-{self.processes}"


@dataclass(frozen=True)
class Spread:
    """Milliseconds; negative where something came before what it is measured from."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Latencies:
    """How long it takes until a reader has a message, since it was acknowledged and since it was
    sent; over all readers and messages."""

    acknowledged: Spread
    sent: Spread
    messages: int
    lost: int
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


@dataclass
class LatencyResult:
    case: Case
    samples: list[Latencies] = field(default_factory=list)

    def middle(self, since: str) -> Spread:
        """The medians of the rounds that count."""
        spreads = [getattr(sample, since) for sample in calm(self.samples)]
        return Spread(
            median(spread.p50 for spread in spreads), median(spread.p99 for spread in spreads)
        )


LatencyResults = Mapping[str, LatencyResult]

CASES = (
    Case(DURABLE_SQLITE, "SQLite, one process"),
    Case(DURABLE_POSTGRESQL, "PostgreSQL, one process"),
    Case(DURABLE_REDIS, "PostgreSQL and Redis, two processes", 2),
    Case(DURABLE_POSTGRESQL, "PostgreSQL with NOTIFY, two processes", 2),
)


class Timed:
    """Notes when each message was sent, acknowledged and received."""

    def __init__(self, sockets: Sockets, readers: Sequence[Peer], writer: Peer) -> None:
        self._sockets = sockets
        self._writer = writer
        self._readers = len(readers)
        self._sent: list[float] = []
        self._acknowledged: list[float] = []
        self._received: list[tuple[int, float]] = []
        for peer in readers:
            peer.heard = self._heard
        sockets.told = self._told

    def run(self, seconds: float) -> Callable[[float], Latencies]:
        """Write for so many seconds; waits for what others had of the machine meanwhile."""
        self._sent.clear()
        self._acknowledged.clear()
        self._received.clear()
        began = time.perf_counter()
        for number in range(round(seconds / EVERY)):
            self._sockets.run(began + number * EVERY - time.perf_counter())
            self._sent.append(time.perf_counter())
            self._writer.send(self._writer.dialect.event(f"number {number}{FILLING}"))
        wanted = len(self._sent) * self._readers
        self._sockets.until(
            lambda: len(self._received) == wanted and len(self._acknowledged) == len(self._sent),
            PATIENCE,
        )
        if len(self._acknowledged) < len(self._sent):
            raise SystemExit("Messages were not acknowledged.")
        return partial(
            Latencies,
            _spread(at - self._acknowledged[number] for number, at in self._received),
            _spread(at - self._sent[number] for number, at in self._received),
            len(self._sent),
            wanted - len(self._received),
        )

    def _heard(self, peer: Peer, start: int, end: int) -> None:
        found = NUMBER.search(self._sockets.buffer, start, end)
        if found is not None:
            self._received.append((int(found[1]), time.perf_counter()))

    def _told(self, peer: Peer, payload: bytes) -> None:
        # They are acknowledged in the order in which they were sent.
        if peer is self._writer and b'"t":"ok"' in payload:
            self._acknowledged.append(time.perf_counter())


def _spread(seconds: Iterable[float]) -> Spread:
    ordered = sorted(seconds) or [float("inf")]
    return Spread(ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000)


def run(cases: Sequence[Case], stores: Stores, plan: Plan) -> dict[str, LatencyResult]:
    """Measure every case, by its key; they take turns."""
    results = {case.key: LatencyResult(case) for case in cases}
    for _ in range(plan.rounds):
        for result in results.values():
            result.samples.append(_measure(result.case, stores, plan))
    return results


def _measure(case: Case, stores: Stores, plan: Plan) -> Latencies:
    with ExitStack() as stack:
        said = dialect(case.contender, f"arena/{uuid7()}")
        servers = [
            stack.enter_context(live_server(case.contender, stores, PORT + number, said))
            for number in range(case.processes)
        ]
        sockets = stack.enter_context(closing(Sockets()))
        readers = sockets.connect(servers[-1].door, READERS)
        (writer,) = sockets.connect(servers[0].door, 1)
        timed = Timed(sockets, readers, writer)
        timed.run(plan.seconds / 4)
        pids = {pid for server in servers for pid in server.pids} | plan.stores
        gc.disable()
        stack.callback(gc.enable)
        while True:
            watch = Watch(plan.postmaster, pids)
            measured = timed.run(plan.seconds)
            found = measured(watch.since(pids)[1])
            if not found.disturbed or plan.patience <= 0:
                return found
            wait(plan, plan.seconds)
