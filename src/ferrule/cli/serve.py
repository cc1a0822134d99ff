"""`ferrule serve`: uvicorn, with what must be right checked before the port is bound."""

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import structlog

from ferrule.cli import application
from ferrule.errors import ConfigurationError
from ferrule.observability.logs import configure

if TYPE_CHECKING:
    from uvicorn import Config

    from ferrule.app import Ferrule
    from ferrule.settings import Settings

BACKLOG = 2048
FRAMES = "ferrule.streams.uvicorn.websocket:FrameProtocol"
ABORTABLE = "ferrule.streams.uvicorn.http:HttpProtocol"


def serve(*, host: str | None, port: int | None, workers: int | None, reload: bool) -> int:
    """Serve until told to stop; the exit status. Raises `ConfigurationError` before it listens."""
    given = {"HOST": host, "PORT": port, "WORKERS": workers}
    # Into the environment, so that the application sees them in every process.
    os.environ.update({f"FERRULE_{k}": str(v) for k, v in given.items() if v is not None})
    app = application.load()
    settings = app.settings
    # The application does it when it starts, which is later, and maybe in other processes.
    configure(settings.log_level, settings.log_format)
    if settings.workers > 1:
        _check_workers(settings, reload)
    asyncio.run(_check_database(app))
    config = _config(settings, reload=reload)
    try:
        listener = _bind(settings.host, settings.port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        print(
            f"Error: cannot listen on {settings.host}:{settings.port}: {reason}. "
            f"Stop what listens there, or take another --port.",
            file=sys.stderr,
        )
        return 1
    # Once it has stopped, uvicorn raises the signal again for whoever handled it before.
    signal.signal(signal.SIGTERM, _stopped)
    try:
        return _run(config, listener, app)
    except KeyboardInterrupt:
        return 0
    finally:
        listener.close()


def _stopped(number: int, frame: object) -> None:
    sys.exit(0)


def _check_workers(settings: "Settings", reload: bool) -> None:
    if reload:
        raise ConfigurationError("--reload runs one process: leave out --workers.")
    if settings.embedded:
        raise ConfigurationError(
            f"FERRULE_WORKERS={settings.workers}: SQLite has one writer, whose queue lives in one "
            f"process. Use one worker, or PostgreSQL (FERRULE_DATABASE_URL)."
        )


async def _check_database(app: "Ferrule") -> None:
    """Say what is wrong with the schema once, here, and not from each worker."""
    from ferrule.db.database import Database
    from ferrule.db.migrations import prepare

    settings = app.settings
    database = Database(settings.resolved_database_url, settings.database, app.kit)
    try:
        await prepare(database, app.modules)
    finally:
        await database.close()


def _config(settings: "Settings", *, reload: bool) -> "Config":
    from uvicorn import Config

    http, websockets = _protocols()
    return Config(
        application.name(),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        reload=reload,
        http=http,
        loop="auto",
        ws=websockets,
        ws_max_size=settings.streams.max_message,
        # A compressed frame costs each reader five times as much as all the rest together.
        ws_per_message_deflate=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.http.grace,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=",".join(settings.trusted_proxies) or None,
    )


def _protocols() -> tuple[str, str]:
    """Those of HTTP and WebSockets: ours, or uvicorn's own where ours do not stand on them."""
    try:
        from ferrule.streams.uvicorn.unmet import unmet

        reasons = unmet()
    except ImportError as error:
        reasons = [str(error)]
    if not reasons:
        return ABORTABLE, FRAMES
    log = structlog.get_logger("ferrule.server")
    log.warning(
        "WebSockets are served by uvicorn's own protocol, which is slower: this version of "
        "uvicorn or websockets is not known yet",
        reasons=reasons,
    )
    return "httptools", "auto"


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Only listening tells whether somebody else took the port between.
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener


def _run(config: "Config", listener: socket.socket, app: "Ferrule") -> int:
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import ChangeReload

    from ferrule.cli.server import Server, Workers

    server = Server(config)
    try:
        if config.should_reload:
            ChangeReload(config, target=server.run, sockets=[listener]).run()
        elif config.workers > 1:
            supervisor = Workers(config, sockets=[listener])
            supervisor.run()
            return int(any(each.exitcode == STARTUP_FAILURE for each in supervisor.processes))
        else:
            server.run(sockets=[listener])
    except SystemExit as stop:
        # The log says why: the application could not start.
        return 2 if app.refusal is not None else int(stop.code == STARTUP_FAILURE)
    return 0
