"""One measurement of one operation, and whether something else ran meanwhile."""

import os
import time
from collections.abc import Set
from dataclasses import dataclass

from benchmarks import postgres, processes
from benchmarks.data import Data
from benchmarks.load import measure
from benchmarks.operations import Operation, requests
from benchmarks.server import PORT, Server

LIMIT = 0.05
"""Share of a core that others may have; a sample with more is disturbed, and repeated."""


@dataclass(frozen=True)
class Sample:
    """Rate a second, latencies in milliseconds, CPU of the server in µs for each request.

    `acknowledged` are the right answers, also those to the warm-up.
    """

    acknowledged: int
    rate: float
    p50: float
    p99: float
    failed: int
    cpu: float
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


@dataclass(frozen=True)
class Start:
    """Seconds from the spawn of the server to its first answer."""

    seconds: float
    foreign: float

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


class Watch:
    """What the server, and what nobody of ours, has had of the CPU since this was made."""

    def __init__(self, postmaster: int | None, server: Set[int] = frozenset()) -> None:
        self._postmaster = postmaster
        self._at, self._busy = time.perf_counter(), processes.busy()
        self._server, self._others = self._of(server)

    def since(self, server: Set[int]) -> tuple[float, float]:
        """Seconds of the server, and the share of a core that strangers had."""
        mine, others = self._of(server)
        mine, others = mine - self._server, others - self._others
        strangers = processes.busy() - self._busy - mine - others
        return mine, max(0.0, strangers / (time.perf_counter() - self._at))

    def _of(self, server: Set[int]) -> tuple[float, float]:
        others = {os.getpid(), *postgres.ours(self._postmaster)}
        return processes.cpu(server), processes.cpu(others)


def take(
    server: Server, operation: Operation, data: Data, *, seconds: float, postmaster: int | None
) -> Sample:
    """Warm up, and measure."""
    wanted = requests(operation, server.contender, data.clients)
    warm = measure(PORT, wanted, status=operation.status, seconds=seconds / 4)
    watch = Watch(postmaster, server.pids)
    load = measure(PORT, wanted, status=operation.status, seconds=seconds)
    used, foreign = watch.since(server.pids)
    return Sample(
        acknowledged=warm.requests - warm.failed + load.requests - load.failed,
        rate=load.rate,
        p50=load.p50,
        p99=load.p99,
        failed=load.failed,
        cpu=used / max(1, load.requests) * 1e6,
        foreign=foreign,
    )
