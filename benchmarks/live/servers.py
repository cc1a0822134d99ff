"""Servers with live connections: started beside each other on the first core, and ended."""

import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.data import NAME, Data
from benchmarks.live import LiveContender
from benchmarks.live.dialects import Dialect, Ferrule, Plain, SocketIo
from benchmarks.live.sockets import Door
from benchmarks.server import PATIENCE, environment, spawned

APP = "benchmarks.live.contenders.arena:app"
QUIET = 300
"""Seconds between two heartbeats, where they would disturb."""
LOOSE = {
    "FERRULE_STREAMS__RATE": 100_000,
    "FERRULE_STREAMS__BURST": 100_000,
    "FERRULE_STREAMS__PER_USER": 100_000,
    "FERRULE_STREAMS__PER_ADDRESS": 100_000,
}
"""Ferrule's limits count, but let one client do what the benchmark does."""


@dataclass(frozen=True)
class Stores:
    """What contenders work on: the data in each database, by its kind, and a Redis."""

    data: Mapping[str, Data]
    redis: str

    def tokens(self, contender: LiveContender) -> list[str]:
        """Those of all logins; one that is empty where nobody asks for it."""
        found = self.data.get(contender.store)
        return [client.token for client in found.clients] if found else [""]


@dataclass(frozen=True)
class LiveServer:
    contender: LiveContender
    process: "subprocess.Popen[bytes]"
    door: Door

    @property
    def pids(self) -> set[int]:
        return processes.tree(self.process.pid)

    def memory(self) -> float:
        """KiB."""
        return processes.memory(self.pids) * 1024


@contextmanager
def live_server(
    contender: LiveContender, stores: Stores, port: int, dialect: Dialect, *, quiet: bool = False
) -> Iterator[LiveServer]:
    """The contender on this port until the block ends; `quiet` without heartbeats."""
    command = shlex.split(contender.command.format(port=port))
    settings = _settings(contender, stores)
    if quiet:
        settings |= {
            "UVICORN_WS_PING_INTERVAL": f"{QUIET}",
            "UVICORN_WS_PING_TIMEOUT": f"{QUIET}",
            "BENCHMARK_PING": f"{QUIET}",
            "FERRULE_STREAMS__PING": f"{QUIET}",
        }
    with spawned(contender.name, command, settings, lambda process: _listens(process, port)) as (
        process,
        *_,
    ):
        try:
            yield LiveServer(contender, process, Door(port, dialect, stores.tokens(contender)))
        finally:
            # It would take its leave of every connection.
            process.kill()


def dialect(contender: LiveContender, channel: str) -> Dialect:
    """How it is spoken to; `channel` is the one to read, where it has several."""
    if contender.dialect == "socketio":
        return SocketIo()
    if contender.dialect == "ferrule":
        return Ferrule(channel, "signal" if contender.event == "signal" else "pub")
    return Plain()


def _settings(contender: LiveContender, stores: Stores) -> dict[str, str]:
    data = stores.data.get(contender.store)
    settings = environment(data.url if data else "")
    settings.pop("FERRULE_REDIS_URL", None)
    settings |= {name: f"{value}" for name, value in LOOSE.items()}
    settings |= {"BENCHMARK_REDIS": stores.redis, "FERRULE_APP": APP}
    if contender.bus == "redis":
        settings |= {
            "FERRULE_REDIS_URL": stores.redis,
            "FERRULE_STREAMS__NAMESPACE": NAME,
        }
    return settings


def _listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether it lets connections in before it ends or our patience does."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionError:
            time.sleep(0.01)
            continue
        return True
    return False
