"""`ferrule worker`: a process that works on jobs and serves nothing."""

import asyncio
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from prometheus_client import start_http_server

from ferrule.cli import application
from ferrule.errors import ConfigurationError
from ferrule.observability import logs
from ferrule.observability.metrics import Metrics

if TYPE_CHECKING:
    from ferrule.app import Ferrule

log = structlog.get_logger("ferrule.jobs")


def work(*, concurrency: int | None, metrics_port: int | None) -> int:
    """Work until told to stop; the exit status. Raises `ConfigurationError` before it begins."""
    app = application.load()
    settings = app.settings
    if settings.embedded:
        raise ConfigurationError(
            "SQLite has one writer, whose queue lives in one process: `ferrule serve` works on "
            "its jobs itself. For workers of their own use PostgreSQL (FERRULE_DATABASE_URL)."
        )
    if not app.jobs:
        raise ConfigurationError("No module declares a job: add them with Module(jobs=(…)).")
    logs.configure(settings.log_level, settings.log_format)
    try:
        from uvloop import run
    except ImportError:  # there is none for Windows
        from asyncio import run
    port = settings.jobs.metrics_port if metrics_port is None else metrics_port
    try:
        with _metrics(app, port):
            run(_work(app, concurrency))
    except OSError as error:
        print(f"Error: cannot listen on {settings.host}:{port}: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _metrics(app: "Ferrule", port: int | None) -> Generator[None]:
    """Answer /metrics on a thread, with what this process counts."""
    if port is None:
        yield
        return
    registry = app.kit[Metrics].registry
    server, thread = start_http_server(port, app.settings.host, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _work(app: "Ferrule", concurrency: int | None) -> None:
    from ferrule.jobs.worker import Worker

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with app.running() as kit:
        worker = Worker(kit, concurrency=concurrency)
        async with worker.running():
            log.info("worker started", worker=worker.name, jobs=len(app.jobs))
            await stop.wait()
            log.info("worker stops", running=worker.busy)
