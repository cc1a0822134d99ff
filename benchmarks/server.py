"""A contender's server: started on the first core, asked, watched, and ended."""

import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import benchmarks
from benchmarks import processes
from benchmarks.contenders import Contender
from benchmarks.data import KEY, Data

PORT = 8765
PATIENCE = 30.0
"""Seconds in which a server must give its first answer."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Server:
    """A server that has given its first answer, `started` seconds after it was spawned."""

    contender: Contender
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    started: float

    @property
    def pids(self) -> set[int]:
        return processes.tree(self.process.pid)

    def logged(self) -> int:
        """Bytes that it has written to its log."""
        return os.fstat(self.log.fileno()).st_size

    def ask(
        self, method: str, path: str, *, token: str = "", body: Any = None, **headers: str
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            # A server that refuses a body may answer, and close, before it was sent.
            with suppress(ConnectionError):
                connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read())
        finally:
            connection.close()


@contextmanager
def served(contender: Contender, url: str, first: bytes) -> Iterator[Server]:
    """The contender until the block ends; `first` is the request that it must answer."""
    command = ["-m", *shlex.split(contender.command.format(port=PORT))]
    with spawned(
        contender.name, command, environment(url), lambda process: _answers(process, first)
    ) as (process, log, started):
        yield Server(contender, process, log, started)


def environment(url: str) -> dict[str, str]:
    """That of a contender on this database."""
    found = {
        **os.environ,
        "FERRULE_DATABASE_URL": url,
        "FERRULE_SECRET_KEY": KEY,
        "FERRULE_ENVIRONMENT": "production",
        "FERRULE_ALLOWED_HOSTS": "127.0.0.1",
        "FERRULE_LOG_FORMAT": "json",
        # So that it is seen that there are any.
        "FERRULE_OBSERVABILITY__METRICS": "public",
        "BENCHMARK_TOKEN_KEY": Data.token_key().hex(),
    }
    # An installed package has its bytecode; so has a checkout after the first start.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


@contextmanager
def spawned(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    answers: Callable[["subprocess.Popen[bytes]"], bool],
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes], float]]:
    """Python with this command, on the server's core, until the block ends.

    With its log, and the seconds until it answered. Exits with the log's end if it does not.
    """
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            cwd=Path(benchmarks.__file__).parents[1],
            stdout=log,
            stderr=log,
            preexec_fn=_on_its_core,
        )
        try:
            if not answers(process):
                log.seek(0)
                raise SystemExit(f"{name} did not start:\n{log.read().decode()[-2000:]}")
            yield process, log, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _on_its_core() -> None:
    os.sched_setaffinity(0, processes.SERVER)


def _answers(process: "subprocess.Popen[bytes]", first: bytes) -> bool:
    """Whether it answers before it ends or our patience does."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", PORT), PATIENCE) as connection:
                connection.sendall(first)
                status = connection.recv(65_536)[9:12]
        except ConnectionError:
            time.sleep(0.002)
            continue
        return status in (b"200", b"401")
    return False
