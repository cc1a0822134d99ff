import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ferrule.actor import Door
from ferrule.errors import Error
from ferrule.kit import Kit
from ferrule.observability import logs


class Stream(io.StringIO):
    """Stands in for stderr."""

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def _loggers() -> list[logging.Logger]:
    known = logging.getLogger().manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """A stream in the place of stderr; all logging is put back afterwards."""
    root = logging.getLogger()
    before = [(x, x.level, x.propagate, x.disabled, list(x.handlers)) for x in [root, *_loggers()]]
    stream = Stream()
    # Not sys itself, whose streams pytest replaces between the phases of a test.
    seen = {
        name: getattr(sys, name) for name in ("stdout", "__stdout__", "__stderr__", "exception")
    }
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream, **seen))
    yield stream
    for logger in _loggers():
        logger.disabled, logger.propagate, logger.level = False, True, logging.NOTSET
    for logger, level, propagate, disabled, handlers in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled, logger.handlers[:] = propagate, disabled, handlers
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Edge:
    """What the HTTP edge puts into the scope."""

    def __init__(self, app: ASGIApp, kit: Kit, doors: tuple[Door, ...]) -> None:
        self.app, self.kit, self.doors = app, kit, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope |= {"ferrule.kit": self.kit, "ferrule.doors": self.doors}
        await self.app(scope, receive, send)


@pytest.fixture
def serve() -> Callable[..., ASGIApp]:
    """Makes an application of a router, with a kit and doors."""

    def make(router: APIRouter, *things: object, doors: tuple[Door, ...] = ()) -> ASGIApp:
        app = FastAPI()
        app.include_router(router)

        @app.exception_handler(Error)
        async def answer(request: Request, error: Error) -> JSONResponse:
            return JSONResponse({"code": error.code}, error.status)

        return Edge(app, Kit(*things), doors)

    return make
