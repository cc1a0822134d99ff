"""The processes of a contender's jobs: started on a core, told what to do, and ended."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import benchmarks
from benchmarks import processes
from benchmarks.data import KEY
from benchmarks.jobs import JobContender

PATIENCE = 150.0
"""Seconds that an answer may take."""
END = 10.0
"""Seconds that a process gets to end by itself."""


@dataclass(frozen=True)
class Child:
    """A process that answers lines of JSON."""

    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    @property
    def pids(self) -> set[int]:
        return processes.tree(self.process.pid)

    def tell(self, command: str, *arguments: Any) -> dict[str, Any]:
        """Its answer."""
        self.send(command, *arguments)
        return self.hear()

    def send(self, command: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line; exits with the log's end if there is none."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if ready and (line := self.process.stdout.readline()):
            return json.loads(line)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(map(str, self.process.args))} did not answer:\n{said}")  # type: ignore[arg-type]


@contextmanager
def child(contender: JobContender, urls: Mapping[str, str], cores: Set[int]) -> Iterator[Child]:
    """A process of this contender until the block ends; it says a first line when it is up."""
    kind = "sqlite" if contender.store == "sqlite" else "postgresql"
    environment = {
        **os.environ,
        "FERRULE_DATABASE_URL": urls[kind],
        "FERRULE_DATABASE__MIGRATE_ON_START": "true",
        "FERRULE_SECRET_KEY": KEY,
        "FERRULE_ENVIRONMENT": "production",
        "FERRULE_ALLOWED_HOSTS": "127.0.0.1",
        "FERRULE_LOG_FORMAT": "json",
        "BENCHMARK_REDIS": urls.get("redis", ""),
    }
    command = [sys.executable, "-m", "benchmarks.jobs.child", contender.key]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=Path(benchmarks.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )
        try:
            yield Child(process, log)
        finally:
            try:
                # The end of its lines is its own: it removes what it has stored elsewhere.
                process.communicate(timeout=END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
