"""Ten thousand sockets that only listen: what they hold of memory, and what requests notice."""

import gc
import random
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from benchmarks.contenders import FERRULE
from benchmarks.live import LiveContender
from benchmarks.live.servers import LiveServer, Stores, dialect, live_server
from benchmarks.live.sockets import Sockets
from benchmarks.load import LENGTH
from benchmarks.operations import GET, requests
from benchmarks.rounds import Plan
from benchmarks.samples import LIMIT, Watch
from benchmarks.server import PORT

SOCKETS = 10_000
CHANNEL = "notifications"
EVERY = 0.01
"""Seconds between two requests."""
SETTLE = 2.0
HEARTBEAT = 30.0
"""Seconds in which every heartbeat comes once."""


@dataclass(frozen=True)
class IdleResult:
    """KiB of memory for each socket, just open and after a while; how many were let in a second;
    p99 of a GET in milliseconds without them and beside them, if it has one."""

    contender: LiveContender
    sockets: int
    opened: float
    later: float
    rate: float
    lost: int
    foreign: float
    alone: float | None = None
    beside: float | None = None

    @property
    def disturbed(self) -> bool:
        return self.foreign > LIMIT


IdleResults = Mapping[str, IdleResult]


def run(
    contenders: Sequence[LiveContender], stores: Stores, plan: Plan, number: int
) -> dict[str, IdleResult]:
    """Measure every contender, by its key."""
    seconds = min(HEARTBEAT, 8 * plan.seconds)
    return {each.key: _measure(each, stores, plan, number, seconds) for each in contenders}


def _measure(
    contender: LiveContender, stores: Stores, plan: Plan, number: int, seconds: float
) -> IdleResult:
    with ExitStack() as stack:
        server = stack.enter_context(
            live_server(contender, stores, PORT, dialect(contender, CHANNEL))
        )
        sockets = stack.enter_context(closing(Sockets()))
        gc.disable()
        stack.callback(gc.enable)
        # What the first connection loads belongs to none of them.
        for peer in sockets.connect(server.door, 10):
            sockets.leave(peer)
        alone = _late(server, stores, sockets, seconds / 4)
        before, began = server.memory(), time.perf_counter()
        sockets.connect(server.door, number)
        rate = number / (time.perf_counter() - began)
        sockets.run(SETTLE)
        opened = server.memory()
        pids = server.pids | plan.stores
        watch = Watch(plan.postmaster, pids)
        beside = _late(server, stores, sockets, seconds)
        foreign = watch.since(pids)[1]
        later = server.memory()
    return IdleResult(
        contender=contender,
        sockets=number,
        opened=(opened - before) / number,
        later=(later - before) / number,
        rate=rate,
        lost=sum(sockets.lost.values()),
        foreign=foreign,
        alone=alone,
        beside=beside,
    )


def _late(server: LiveServer, stores: Stores, sockets: Sockets, seconds: float) -> float | None:
    """p99 of requests at a steady pace, while the sockets are looked after; None without any."""
    if server.contender.dialect != "ferrule":
        sockets.run(seconds)
        return None
    ordered = sorted(_gets(server, stores, sockets, seconds))
    return ordered[int(len(ordered) * 0.99)] * 1000


def _gets(server: LiveServer, stores: Stores, sockets: Sockets, seconds: float) -> Iterator[float]:
    """Seconds from when each request was due to its answer."""
    clients = stores.data[server.contender.store].clients
    built = requests(GET, FERRULE, random.sample(clients, len(clients)))
    with socket.create_connection(("127.0.0.1", server.door.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number in range(round(seconds / EVERY)):
            due = began + number * EVERY
            sockets.run(due - time.perf_counter())
            connection.sendall(built[number % len(built)])
            _answer(connection)
            yield time.perf_counter() - due


def _answer(connection: socket.socket) -> None:
    """Read it whole; exits if it is not the item."""
    got = b""
    while True:
        got += connection.recv(65_536)
        head, end, body = got.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            break
    if not got.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"A GET beside idle sockets was answered {got[:300].decode()}")
