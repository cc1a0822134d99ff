"""`make bench`: Ferrule beside the floor and beside FastAPI as tutorials write it.

Server and load run on separate cores, the contenders take turns, and each figure is the median of
the rounds. Ratios within one run are what counts; rates depend on the machine.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.data import KEY, Data, fill
from benchmarks.load import Load, measure

CONTENDERS = {
    "floor": "benchmarks.contenders.floor:app",
    "naive FastAPI": "benchmarks.contenders.naive:app",
    "Ferrule": "ferrule.asgi:app",
}
OPERATIONS = {"GET": 200, "list 50 + count": 200, "POST": 201}
PORT = 8765


def requests(operation: str, data: Data) -> list[bytes]:
    """Prebuilt requests of many users, each for what is theirs."""
    built: list[bytes] = []
    for token, item in data.pairs:
        lines = [f"Host: 127.0.0.1:{PORT}", f"Authorization: Bearer {token}"]
        body = b""
        if operation == "GET":
            start = f"GET /api/v1/items/{item} HTTP/1.1"
        elif operation == "POST":
            start, body = "POST /api/v1/items HTTP/1.1", b'{"name":"A new item"}'
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        else:
            start = "GET /api/v1/items?limit=50 HTTP/1.1"
        built.append("\r\n".join([start, *lines, "", ""]).encode() + body)
    return built


@contextmanager
def served(target: str, url: str) -> Iterator[None]:
    """A contender, on the first core, until the block ends."""
    environment = {
        **os.environ,
        "FERRULE_DATABASE_URL": url,
        "FERRULE_SECRET_KEY": KEY,
        "FERRULE_LOG_FORMAT": "json",
        "BENCHMARK_TOKEN_KEY": Data.token_key().hex(),
    }
    command = [sys.executable, "-m", "uvicorn", target, "--port", str(PORT), "--no-access-log"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {0})
            if not _answers(process):
                log.seek(0)
                raise SystemExit(f"{target} did not start:\n{log.read().decode()[-2000:]}")
            yield
        finally:
            process.terminate()
            process.wait(30)


def _answers(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the server answers, whatever it says, before it ends or half a minute is over."""
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/openapi.json", timeout=1)
        except urllib.request.HTTPError:
            return True
        except OSError:
            if process.poll() is not None:
                return False
            time.sleep(0.1)
        else:
            return True
    return False


def run(url: str, *, rounds: int, seconds: float) -> dict[tuple[str, str], list[Load]]:
    """Measure every contender at every operation, in an order that changes with each round."""
    data = asyncio.run(fill(url))
    results: dict[tuple[str, str], list[Load]] = {}
    for _ in range(rounds):
        order = list(CONTENDERS)
        random.shuffle(order)
        for name in order:
            with served(CONTENDERS[name], url):
                for operation, status in OPERATIONS.items():
                    wanted = requests(operation, data)
                    asyncio.run(measure(PORT, wanted, status=status, seconds=seconds / 4))
                    load = asyncio.run(measure(PORT, wanted, status=status, seconds=seconds))
                    results.setdefault((name, operation), []).append(load)
    return results


def table(title: str, results: dict[tuple[str, str], list[Load]]) -> str:
    """Medians, and ratios to the floor and to naive FastAPI."""
    lines = [
        f"\n{title}",
        f"{'':<18}{'contender':<16}{'req/s':>8}{'of floor':>9}{'x naive':>9}{'p50 ms':>9}"
        f"{'p99 ms':>9}{'noise':>8}{'failed':>8}",
    ]
    for operation in OPERATIONS:
        rates = {
            name: statistics.median(load.rate for load in results[name, operation])
            for name in CONTENDERS
        }
        for name, rate in rates.items():
            loads = results[name, operation]
            spread = (max(load.rate for load in loads) - min(load.rate for load in loads)) / rate
            lines.append(
                f"{operation:<18}{name:<16}{rate:>8.0f}{rate / rates['floor']:>9.2f}"
                f"{rate / rates['naive FastAPI']:>9.2f}"
                f"{statistics.median(load.p50 for load in loads):>9.1f}"
                f"{statistics.median(load.p99 for load in loads):>9.1f}"
                f"{spread:>8.0%}{sum(load.failed for load in loads):>8}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument(
        "--postgres",
        default=os.environ.get(
            "FERRULE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
        ),
        help="a server on which a database may be made; its tables are dropped",
    )
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        urls = {
            "sqlite": f"sqlite:///{Path(folder, 'bench.db')}",
            "postgresql": arguments.postgres,
        }
        for kind, url in urls.items():
            if arguments.only in (None, kind):
                with Data.database(kind, url) as own:
                    results = run(own, rounds=arguments.rounds, seconds=arguments.seconds)
                print(table(f"{kind}, 32 connections, one process", results), flush=True)


if __name__ == "__main__":
    main()
